"""Comparison of two runs on one machine: faster, slower or undecided; pure functions.

In: the `Results` of an old and a new run of bench or run. Out: a `Comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from toolkit.comparison.changes import limit_share, machine_changes, other_changes, unfit_reasons
from toolkit.comparison.regressions import Finding, Pair, find_regressions
from toolkit.errors import SettingError, ToolkitError
from toolkit.report.labels import distinct, facts_of
from toolkit.schema import (
    NO_OP,
    ComparedRow,
    Comparison,
    Interval,
    Measurement,
    Results,
    Settings,
    Verdict,
)
from toolkit.statistics.intervals import pass_logs
from toolkit.statistics.speeds import speeds_of

FAIL_BELOW = -0.03
_MOST_LISTED = 6

_Key = tuple[str, str, str, bool, int, Settings]
_Kind = tuple[str, str, str, bool]
_Pair = tuple[Measurement | None, Measurement | None]


def compare(
    old: Results,
    new: Results,
    *,
    fail_below: float = FAIL_BELOW,
    allow_undecided: bool = False,
    anyway: bool = False,
) -> Comparison:
    """Compare a new run with an old one, candidate by candidate.

    Candidates are paired by runtime, format, precision, type of input, batch size and settings. A
    regression is a loss of speed that is shown to exceed `fail_below`, relative to the other rows
    and to the row's own past (`toolkit.comparison.regressions`), with one error rate of 5 % for all
    rows. A candidate that was measured before and now fails or cannot be exported is a regression
    as well. A candidate that only the old run has is only reported. Rows are undecided if the
    machine may have caused the loss.

    Args:
        old: Results of bench or run, as `toolkit.read_results` reads them.
        new: The same, from a later run.
        fail_below: From 0 (any loss that is shown) down to -1, exclusive; -0.03 is 3 %.
        allow_undecided: Undecided rows do not change the exit code.
        anyway: Compare even if the machines differ.

    Raises:
        SettingError: `fail_below` is out of range.
        ToolkitError: No measurements, two machines, or no common candidate.
    """
    if not -1 < fail_below <= 0:
        raise SettingError(
            f"--fail-below {fail_below:g}: expected a loss, 0 or a share above -1, such as -3% "
            "or -0.03"
        )
    before, after = (_measured(*run) for run in (("old", old), ("new", new)))
    machine = machine_changes(old.environment, new.environment)
    if machine and not anyway:
        raise ToolkitError(
            f"the two runs come from different machines ({'; '.join(machine)}), which may "
            "explain a difference; measure both on one machine, or compare them anyway with "
            "--anyway"
        )
    pairs = _pair_up(before, after)
    lost: dict[_Kind, str | None] = {
        (row.runtime, row.format, row.precision, row.embeds_preprocessing): row.reason
        for row in new.parity
        if row.artifact_sha256 is None
    }
    if not any(was and now for was, now in pairs):
        raise ToolkitError(
            f"the two runs have nothing in common: old has {_listed(before)}; new has "
            f"{_listed(after)}; measure both with the same runtimes and settings"
        )
    unfit = unfit_reasons(old, new)
    judged, common = _judge(pairs, fail_below, "; ".join(unfit) or None)
    return Comparison(
        old_time=old.environment.time,
        new_time=new.environment.time,
        fail_below=fail_below,
        allow_undecided=allow_undecided,
        common=common,
        limit_share=limit_share(old, new),
        unfit=tuple(unfit),
        machine=tuple(machine),
        changes=tuple(other_changes(old, new)),
        rows=tuple(
            _row(name, pair, found, lost)
            for name, pair, found in zip(
                distinct([_facts(_some(pair)) for pair in pairs]), pairs, judged, strict=True
            )
        ),
    )


def _judge(
    pairs: Sequence[_Pair], fail_below: float, unfit: str | None
) -> tuple[list[_Judged], Interval | None]:
    """Judge each pair, and return the ratio of each pair and the change that all rows share."""
    judged = [_ratio(old, new) for old, new in pairs]
    known = [each.sides for each in judged if each.sides is not None]
    if not known:
        return judged, None
    findings, common = find_regressions(known, limit=1 + fail_below, unfit=unfit)
    order = iter(findings)
    return [replace(each, finding=next(order) if each.sides else None) for each in judged], common


def _measured(which: str, results: Results) -> list[Measurement]:
    """Return the measurements of one run without the no-op runtime; raise if there are none."""
    rows = [row for row in results.measurements if row.runtime != NO_OP]
    if not rows:
        held = ", parity reports only" if results.parity else ""
        held = ", MLPerf scenarios only" if results.scenarios else held
        raise ToolkitError(
            f"the {which} results contain no measurements{held}; expected a file that toolkit "
            "bench --out DIR or toolkit run wrote"
        )
    return rows


def _key(row: Measurement) -> _Key:
    return *_kind(row), row.batch_size, row.settings


def _kind(row: Measurement) -> _Kind:
    return row.runtime, row.format, row.precision, row.embeds_preprocessing


def _pair_up(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[_Pair]:
    """Return each measurement with its counterpart of the other run, or with None, in order."""
    return [
        pair
        for key in dict.fromkeys(_key(row) for row in (*old, *new))
        for pair in _match(
            [row for row in old if _key(row) == key], [row for row in new if _key(row) == key]
        )
    ]


def _match(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[_Pair]:
    """Match rows of one key: those of the same bytes first, the others in their order."""
    pairs: list[_Pair] = []
    old_left, new_left = list(old), list(new)
    for row in old:
        twins = [each for each in new_left if each.artifact_sha256 == row.artifact_sha256]
        if twins:
            pairs.append((row, twins[0]))
            old_left.remove(row)
            new_left.remove(twins[0])
    return [*pairs, *zip_longest(old_left, new_left)]


def _row(name: str, pair: _Pair, judged: _Judged, lost: Mapping[_Kind, str | None]) -> ComparedRow:
    """Return the row of a pair. `lost` holds the formats that the new run could not export, and
    why."""
    old, new = pair
    some, found = _some(pair), judged.finding
    verdict, reason = _verdict(old, new, found), judged.reason
    kind = _kind(some)
    if verdict == "only in old" and kind in lost and some.status == "measured":
        verdict, reason = "failed now", lost[kind]
    return ComparedRow(
        name=name,
        runtime=some.runtime,
        format=some.format,
        precision=some.precision,
        embeds_preprocessing=some.embeds_preprocessing,
        batch_size=some.batch_size,
        settings=some.settings,
        old=old.images_per_s if old else None,
        new=new.images_per_s if new else None,
        ratio=judged.ratio,
        to_others=found.to_others if found else None,
        p_value=found.p_value if found else None,
        verdict=verdict,
        reason=found.reason if found else reason,
        old_status=old.status if old else None,
        new_status=new.status if new else None,
        same_artifact=old.artifact_sha256 == new.artifact_sha256 if old and new else None,
        regression=verdict == "failed now" or (found is not None and found.regression),
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The ratio of a pair with its passes, or the reason why there is none, and the verdict."""

    ratio: Interval | None = None
    sides: Pair | None = None
    reason: str | None = None
    finding: Finding | None = None


def _ratio(old: Measurement | None, new: Measurement | None) -> _Judged:
    """Return new over old with its interval, or the reason why there is none."""
    for row in (new, old):
        if row is not None and row.status != "measured":
            return _Judged(reason=row.reason)
    if old is None or new is None:
        return _Judged()
    try:
        logs = [pass_logs(speeds_of(row.passes, row.batch_size)) for row in (old, new)]
        sides = Pair(old=logs[0], new=logs[1], table=(new.settings, new.batch_size))
        return _Judged(ratio=sides.difference().interval(), sides=sides)
    except ValueError as error:
        return _Judged(reason=str(error))
    except ArithmeticError:  # times of 0 s, or so far apart that their ratio overflows
        return _Judged(reason="the times of a round are impossible: the file is damaged")


def _verdict(old: Measurement | None, new: Measurement | None, finding: Finding | None) -> Verdict:
    if old is None:
        return "only in new"
    if new is None:
        return "only in old"
    if "too_short" in (old.status, new.status):
        return "no interval"
    if old.status != "measured":
        return "failed then" if new.status == "measured" else "failed in both"
    if new.status != "measured":
        return "failed now"
    return "no interval" if finding is None else finding.call


def _some(pair: _Pair) -> Measurement:
    old, new = pair
    found = new or old
    if found is None:  # _match pairs None only with a row
        raise ValueError("an empty pair, expected a measurement of the old or the new run")
    return found


def _facts(row: Measurement) -> tuple[str, ...]:
    return facts_of(
        row.runtime,
        row.precision,
        row.format,
        row.batch_size,
        row.settings,
        uint8=row.embeds_preprocessing,
    )


def _listed(rows: Sequence[Measurement]) -> str:
    """Return a text such as `onnxruntime fp32 onnx (batch 100, 1 threads, 1 streams, cpu)`; only
    the first few."""
    facts = [_facts(row) for row in rows]
    texts = [f"{' '.join(each[:3])} ({', '.join(filter(None, each[3:]))})" for each in facts]
    more = len(texts) - _MOST_LISTED
    return ", ".join(texts[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
