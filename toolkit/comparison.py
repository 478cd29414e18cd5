"""Two runs on one machine → what became faster, what slower, what cannot be told. Pure.

In: the `Results` of an old and of a new call of bench or run. Out: a `Comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from toolkit.changes import machine_changes, other_changes
from toolkit.errors import SettingError, ToolkitError
from toolkit.measuring.ranking import too_close
from toolkit.measuring.speeds import speeds_of
from toolkit.measuring.stats import independent_ratio_interval
from toolkit.names import distinct, facts_of
from toolkit.schema import (
    ComparedRow,
    Comparison,
    Interval,
    Measurement,
    Results,
    Settings,
    Verdict,
)

_NULL = "null"  # computes nothing, so it has no speed to lose
_MOST_LISTED = 6

_Key = tuple[str, str, str, int, Settings]
_Kind = tuple[str, str, str]
_Pair = tuple[Measurement | None, Measurement | None]


def compare(
    old: Results, new: Results, *, fail_below: float = 0.0, anyway: bool = False
) -> Comparison:
    """Compare a new run with an old one, candidate by candidate.

    Candidates are paired by runtime, format, precision, batch size and settings. A regression is
    a loss of speed that is significant (the whole interval of new/old lies below 1) and larger
    than `fail_below`, or a candidate that was measured then and now fails or cannot be exported.
    Another that only the old run has is told, no more.

    Args:
        old: Results of bench or run, as `toolkit.read_results` reads them.
        new: The same, later.
        fail_below: From 0 (any significant loss) down to -1, exclusive; -0.03 is 3 %.
        anyway: Compare though the machines differ.

    Raises:
        SettingError: `fail_below` out of range.
        ToolkitError: no measurements, two machines, or nothing that both have.
    """
    if not -1 < fail_below <= 0:
        raise SettingError(
            f"--fail-below {fail_below:g}: expected a loss, 0 or a share above -1, as -3% or -0.03"
        )
    before, after = (_measured(*run) for run in (("old", old), ("new", new)))
    machine = machine_changes(old.environment, new.environment)
    if machine and not anyway:
        raise ToolkitError(
            f"the two runs are of different machines ({'; '.join(machine)}): what differs may be "
            "theirs; measure both on one, or compare them all the same with --anyway"
        )
    pairs = _pair_up(before, after)
    lost: dict[_Kind, str | None] = {
        (row.runtime, row.format, row.precision): row.reason
        for row in new.parity
        if row.artifact_sha256 is None
    }
    if not any(was and now for was, now in pairs):
        raise ToolkitError(
            f"the two runs have nothing in common: old has {_listed(before)}; new has "
            f"{_listed(after)}; measure both with the same runtimes and settings"
        )
    return Comparison(
        old_time=old.environment.time,
        new_time=new.environment.time,
        fail_below=fail_below,
        machine=tuple(machine),
        changes=tuple(other_changes(old, new)),
        rows=tuple(
            _row(name, pair, fail_below, lost)
            for name, pair in zip(
                distinct([_facts(_some(pair)) for pair in pairs]), pairs, strict=True
            )
        ),
    )


def _measured(which: str, results: Results) -> list[Measurement]:
    """The measurements of one run, the null runtime left out; raises where there is none."""
    rows = [row for row in results.measurements if row.runtime != _NULL]
    if not rows:
        held = ", parity reports only" if results.parity else ""
        held = ", MLPerf's scenarios only" if results.scenarios else held
        raise ToolkitError(
            f"the {which} results hold no measurements{held}; expected what toolkit bench --out "
            "DIR, without --scenario, or toolkit run wrote"
        )
    return rows


def _key(row: Measurement) -> _Key:
    return row.runtime, row.format, row.precision, row.batch_size, row.settings


def _pair_up(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[_Pair]:
    """Each measurement with its counterpart of the other run, or with None, in order."""
    return [
        pair
        for key in dict.fromkeys(_key(row) for row in (*old, *new))
        for pair in _match(
            [row for row in old if _key(row) == key], [row for row in new if _key(row) == key]
        )
    ]


def _match(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[_Pair]:
    """Rows of one key: those of the same bytes first, the others in their order."""
    pairs: list[_Pair] = []
    old_left, new_left = list(old), list(new)
    for row in old:
        twins = [each for each in new_left if each.artifact_sha256 == row.artifact_sha256]
        if twins:
            pairs.append((row, twins[0]))
            old_left.remove(row)
            new_left.remove(twins[0])
    return [*pairs, *zip_longest(old_left, new_left)]


def _row(
    name: str, pair: _Pair, fail_below: float, lost: Mapping[_Kind, str | None]
) -> ComparedRow:
    """`lost` has the kinds that the new run could not export, and why."""
    old, new = pair
    some = _some(pair)
    ratio, reason = _ratio(old, new)
    verdict = _verdict(old, new, ratio)
    kind = some.runtime, some.format, some.precision
    if verdict == "only in old" and kind in lost and some.status == "measured":
        verdict, reason = "failed now", lost[kind]
    slower = verdict == "slower" and ratio is not None and ratio.value < 1 + fail_below
    return ComparedRow(
        name=name,
        runtime=some.runtime,
        format=some.format,
        precision=some.precision,
        batch_size=some.batch_size,
        settings=some.settings,
        old=old.images_per_s if old else None,
        new=new.images_per_s if new else None,
        ratio=ratio,
        verdict=verdict,
        reason=reason,
        old_status=old.status if old else None,
        new_status=new.status if new else None,
        same_artifact=old.artifact_sha256 == new.artifact_sha256 if old and new else None,
        regression=slower or verdict == "failed now",
    )


def _ratio(old: Measurement | None, new: Measurement | None) -> tuple[Interval | None, str | None]:
    """New over old with its interval; or None and why there is none."""
    for row in (new, old):
        if row is not None and row.status != "measured":
            return None, row.reason
    if old is None or new is None:
        return None, None
    try:
        speeds = [speeds_of(row.passes, row.batch_size) for row in (new, old)]
        return independent_ratio_interval(*speeds), None
    except ValueError as error:
        return None, str(error)
    except ArithmeticError:  # times of 0 s, or so far apart that no number holds their ratio
        return None, "the times of a round cannot be: the file is damaged"


def _verdict(old: Measurement | None, new: Measurement | None, ratio: Interval | None) -> Verdict:
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
    if ratio is None:
        return "no interval"
    if too_close(ratio):
        return "too close to call"
    return "faster" if ratio.low > 1 else "slower"


def _some(pair: _Pair) -> Measurement:
    old, new = pair
    found = new or old
    if found is None:  # _match pairs None with a row only
        raise ValueError("a pair of nothing, expected a measurement of the old or the new run")
    return found


def _facts(row: Measurement) -> tuple[str, ...]:
    return facts_of(row.runtime, row.precision, row.format, row.batch_size, row.settings)


def _listed(rows: Sequence[Measurement]) -> str:
    """`onnxruntime fp32 onnx (batch 100, 1 threads, 1 streams, cpu)`, the first few."""
    facts = [_facts(row) for row in rows]
    texts = [f"{' '.join(each[:3])} ({', '.join(filter(None, each[3:]))})" for each in facts]
    more = len(texts) - _MOST_LISTED
    return ", ".join(texts[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
