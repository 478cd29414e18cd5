"""A comparison of two runs, for a terminal.

In: a `Comparison`. Out: a table, notes, and a closing sentence.
"""

from __future__ import annotations

from toolkit.report.parity import status_text
from toolkit.report.table import aligned
from toolkit.schema import ComparedRow, Comparison, Interval

_HEADINGS = ["candidate", "old images/s [95 %]", "new images/s [95 %]", "new/old [95 %]", "verdict"]


def render_comparison(comparison: Comparison) -> str:
    """The table, what a reader should know beside it, and whether anything got worse."""
    rows = [
        [
            row.name,
            _interval(row.old, "{:,.0f}"),
            _interval(row.new, "{:,.0f}"),
            _interval(row.ratio, "{:.3f}"),
            _verdict(row),
        ]
        for row in comparison.rows
    ]
    table = aligned(_HEADINGS, rows, numeric=[False, True, True, True, False])
    return "\n".join([table, *_notes(comparison), _closing(comparison)])


def _notes(comparison: Comparison) -> list[str]:
    """One sentence each."""
    lines = [f"Old: {comparison.old_time}; new: {comparison.new_time}."]
    if comparison.machine:
        lines.append(
            f"Warning: two machines, compared all the same: {'; '.join(comparison.machine)}."
        )
    if comparison.changes:
        lines.append(f"Changed: {'; '.join(comparison.changes)}.")
    lines.append(
        "Passes of one run share that day's machine, so how days differ is not in the intervals: "
        "before you believe a small difference, measure both again, in turns."
    )
    if comparison.judged > 1:
        lines.append(
            "Each interval is a 95 % one by itself: of 40 candidates that did not change, about "
            "one looks slower by luck."
        )
    return lines


def _closing(comparison: Comparison) -> str:
    """`1 regression: ...` or `no regression`, and how much of the table that is said of."""
    found = comparison.regressions
    unjudged = (
        len(comparison.rows)
        - comparison.judged
        - sum(row.verdict == "failed now" for row in comparison.rows)
    )
    rest = f"; {unjudged} of {len(comparison.rows)} could not be judged" if unjudged else ""
    if found:
        names = ", ".join(_loss(row) for row in found)
        return f"{len(found)} regression{'s' if len(found) > 1 else ''}: {names}{rest}"
    if not comparison.judged:
        return "nothing could be judged, so this is no proof that nothing got worse"
    limit = f" beyond {comparison.fail_below * 100:g}%" if comparison.fail_below else ""
    return f"no regression{limit}{rest}"


def _loss(row: ComparedRow) -> str:
    if row.ratio is None:
        return f"{row.name} ({_verdict(row)})"
    return f"{row.name} ({row.ratio.value - 1:+.1%})"


def _verdict(row: ComparedRow) -> str:
    """The verdict, why where there is no ratio, and whether it is of other bytes."""
    text: str = row.verdict
    failed = next((each for each in (row.new_status, row.old_status) if _has_failed(each)), None)
    if failed is not None:
        text = f"{text}: {status_text(failed, row.reason)}"
    elif row.reason is not None:
        text = f"{text}: {row.reason}"
    return f"{text}; other artifact (sha256)" if row.same_artifact is False else text


def _has_failed(status: str | None) -> bool:
    return status not in (None, "measured")


def _interval(found: Interval | None, template: str) -> str:
    if found is None:
        return ""
    value, low, high = (template.format(each) for each in (found.value, found.low, found.high))
    return f"{value} [{low}-{high}]"
