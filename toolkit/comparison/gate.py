"""`gate`: an old and a new run → whether the new one may replace the old one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from toolkit.comparison.compare import FAIL_BELOW, compare
from toolkit.errors import ToolkitError
from toolkit.report.comparison import verdict_text
from toolkit.report.parity import row_name, status_text
from toolkit.report.verdict import headline
from toolkit.schema import (
    ComparedRow,
    Gate,
    GateOutcome,
    GateRow,
    ParityReport,
    Results,
    Status,
    Verdict,
)

_PARITY: dict[Status, GateOutcome] = {
    "passed": "passed",
    "failed": "failed",
    "undecided": "undecided",
}
_SPEED: dict[Verdict, GateOutcome] = {
    "faster": "passed",
    "too close to call": "passed",
    "only in new": "passed",
    "failed then": "passed",
    "slower": "failed",
    "failed now": "failed",
    "only in old": "failed",
    "undecided": "undecided",
    "no interval": "undecided",
}


def gate(
    baseline: Results,
    current: Results,
    *,
    fail_below: float = FAIL_BELOW,
    allow_undecided: bool = False,
    anyway: bool = False,
) -> Gate:
    """Judge parity and speed of `current` together; see `compare` for the arguments.

    A candidate that passed in `baseline` and is missing in `current` fails: otherwise, leaving it
    out would be a way to pass.

    Raises:
        ToolkitError: `current` has no parity rows, nothing can be compared, or the machines differ.
    """
    if not current.parity:
        raise ToolkitError(
            "the new results compare nothing with the checkpoint, and a gate needs both verdicts; "
            "give a file of toolkit run, or compare only the speeds with toolkit compare"
        )
    compared = compare(
        baseline, current, fail_below=fail_below, allow_undecided=allow_undecided, anyway=anyway
    )
    rows = [*_of_parity(baseline, current), *_of_speed(compared.rows)]
    if allow_undecided:
        rows = [_allowed(row) for row in rows]
    return Gate(headline=headline(current), rows=tuple(rows), comparison=compared)


def _allowed(row: GateRow) -> GateRow:
    """Return an undecided row as passed; it still says that it is undecided."""
    return replace(row, outcome="passed", changed=True) if row.outcome == "undecided" else row


def _of_parity(baseline: Results, current: Results) -> Iterator[GateRow]:
    old: dict[_Key, list[ParityReport]] = {}
    for row in baseline.parity:
        old.setdefault(_key(row), []).append(row)
    for row in current.parity:
        before = old[_key(row)].pop(0) if old.get(_key(row)) else None
        outcome = _PARITY.get(row.status, "not run")
        if outcome == "undecided" and row.gates.allow_undecided:
            outcome = "passed"
        reason = None if row.status == "passed" else status_text(row.status, row.reason)
        if reason is not None and row.cause is not None:
            reason = f"{reason}. {row.cause.text} {row.cause.action}"
        yield GateRow(
            kind="parity",
            name=row_name(row),
            outcome=outcome,
            reason=reason,
            changed=before is not None and before.status != row.status,
        )
    for missing in (row for rows in old.values() for row in rows if row.status == "passed"):
        yield GateRow(
            kind="parity",
            name=row_name(missing),
            outcome="failed",
            reason="it passed in the old run and is missing in the new one",
            changed=True,
        )


_Key = tuple[str, str, str, bool]


def _key(row: ParityReport) -> _Key:
    return row.runtime, row.format, row.precision, row.embeds_preprocessing


def _of_speed(rows: tuple[ComparedRow, ...]) -> Iterator[GateRow]:
    for row in rows:
        quiet = row.verdict == "too close to call"
        yield GateRow(
            kind="speed",
            name=row.name,
            outcome=_speed_outcome(row),
            reason=None if quiet else _change(row),
            changed=not quiet,
        )


def _speed_outcome(row: ComparedRow) -> GateOutcome:
    """Return the outcome of a measurement. Wrong outputs in the timed calls fail, whatever the old
    run was; a row that the old run could not measure either is not missed."""
    if row.new_status == "failed":
        return "failed"
    if row.verdict == "only in old" and row.old_status != "measured":
        return "passed"
    return _SPEED.get(row.verdict, "not run")


def _change(row: ComparedRow) -> str:
    text = verdict_text(row)
    return text if row.ratio is None else f"{text} ({row.ratio.value - 1:+.1%})"
