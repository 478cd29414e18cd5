"""Comparison of two runs as text for a terminal.

In: a `Comparison`. Out: a table, notes, and a closing sentence.
"""

from __future__ import annotations

from collections.abc import Callable

from toolkit.report.numbers import interval_text
from toolkit.report.parity import status_text
from toolkit.report.table import aligned
from toolkit.schema import ComparedRow, Comparison

_HEADINGS: dict[str, Callable[[ComparedRow], str]] = {
    "candidate": lambda row: row.name,
    "old images/s [95 %]": lambda row: interval_text(row.old, "{:,.0f}"),
    "new images/s [95 %]": lambda row: interval_text(row.new, "{:,.0f}"),
    "new/old [95 %]": lambda row: interval_text(row.ratio, "{:.3f}"),
    "to other rows [95 %]": lambda row: interval_text(row.to_others, "{:.3f}"),
    "verdict": lambda row: verdict_text(row),
}


def render_comparison(comparison: Comparison) -> str:
    """Return the table, the notes, and whether anything became slower."""
    headings, rows, numeric = comparison_cells(comparison)
    return "\n".join([aligned(headings, rows, numeric=numeric), *comparison_notes(comparison)])


def comparison_cells(comparison: Comparison) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, the cells of each row, and which columns are numeric."""
    shown = [
        heading
        for heading in _HEADINGS
        if heading != "to other rows [95 %]" or comparison.common is not None
    ]
    rows = [[_HEADINGS[heading](row) for heading in shown] for row in comparison.rows]
    return shown, rows, [heading.endswith("]") for heading in shown]


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return the notes, one sentence each, and at last whether anything became slower."""
    lines = [f"Old: {comparison.old_time}; new: {comparison.new_time}."]
    if comparison.machine:
        lines.append(
            "Warning: the runs come from two machines and were compared anyway: "
            f"{'; '.join(comparison.machine)}."
        )
    if comparison.changes:
        lines.append(f"Changed: {'; '.join(comparison.changes)}.")
    lines.append(_shared(comparison))
    if comparison.judged > 1:
        lines.append(
            "Each interval is a 95 % interval on its own. The verdicts hold for all rows "
            "together (Holm), so a row can be too close to call although its interval does not "
            "contain 1."
        )
    if comparison.unfit:
        lines.append(f"Nothing is decided: {'; '.join(comparison.unfit)}.")
    if comparison.undecided:
        lines.append(
            "To decide, measure both runs again, alternating between them, with no other load."
        )
    return [*lines, closing(comparison)]


def _shared(comparison: Comparison) -> str:
    """Return a sentence about the change that all rows share."""
    common = comparison.common
    if common is None:
        return (
            "Fewer than four rows were measured in both runs, so only a loss of more than 10 % "
            "can be told from the drift of the machine. To improve this, measure other "
            "runtimes as well."
        )
    bounds = f"new/old {interval_text(common, '{:.3f}')}"
    if common.low <= 1 <= common.high:
        return f"All rows together did not change: {bounds}. Each row is compared with the others."
    change = "slower" if common.value < 1 else "faster"
    text = (
        f"All rows are {abs(common.value - 1):.1%} {change} ({bounds}). The cause is the "
        "machine, or something that all rows share, not a single row. Each row is compared "
        "with the others."
    )
    if comparison.limit_share is None:
        return text
    return f"{text} Limit of the machine: new/old {comparison.limit_share:.3f}."


def closing(comparison: Comparison) -> str:
    """Return `1 regression: ...` or `no regression`, with the part of the table that it covers."""
    found, undecided = comparison.regressions, comparison.undecided
    rows = len(comparison.rows)
    failed = sum(row.verdict == "failed now" for row in comparison.rows)
    unjudged = rows - comparison.judged - failed
    rest = f"; {len(undecided)} of {rows} undecided" if undecided else ""
    rest += f"; {unjudged} of {rows} could not be judged" if unjudged else ""
    if found:
        names = ", ".join(_loss(row) for row in found)
        return f"{len(found)} regression{'s' if len(found) > 1 else ''}: {names}{rest}"
    if not comparison.judged:
        return "nothing could be judged, so a regression cannot be excluded"
    limit = f" beyond {comparison.fail_below * 100:g}%" if comparison.fail_below else ""
    return f"no regression{limit}{rest}"


def _loss(row: ComparedRow) -> str:
    if row.ratio is None:
        return f"{row.name} ({verdict_text(row)})"
    return f"{row.name} ({row.ratio.value - 1:+.1%})"


def verdict_text(row: ComparedRow) -> str:
    """Return the verdict, its reason if there is no ratio or decision, and whether the artifact
    changed."""
    text: str = row.verdict
    failed = next((each for each in (row.new_status, row.old_status) if _has_failed(each)), None)
    if failed is not None:
        text = f"{text}: {status_text(failed, row.reason)}"
    elif row.reason is not None:
        text = f"{text}: {row.reason}"
    return f"{text}; other artifact (sha256)" if row.same_artifact is False else text


def _has_failed(status: str | None) -> bool:
    return status not in (None, "measured")
