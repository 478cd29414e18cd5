"""Results as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.report.columns import Column, filled_columns, summarise
from toolkit.report.labels import images_of
from toolkit.report.machine import machine_facts
from toolkit.report.notes import notes
from toolkit.report.scenario import ScenarioColumn, scenario_cells, scenario_notes
from toolkit.schema import Results


def render_markdown(results: Results) -> str:
    """Return a page with the table, the facts about the measurement, and the notes."""
    rows = summarise(results)
    columns = filled_columns(rows)
    environment, checkpoint = results.environment, results.checkpoint
    lines = [
        f"# {checkpoint.name}: parity and throughput",
        "",
        f"- Checkpoint `{checkpoint.name}`, sha256 `{checkpoint.sha256}`",
        f"- Data: {results.dataset.name}, {results.dataset.split} split, "
        f"{images_of(results.dataset)}",
        f"- Time: {environment.time}",
        *(
            f"- {label[0].upper() + label[1:]}: {text}"
            for label, text in machine_facts(environment).items()
        ),
        "",
        *(_table(columns, [[column.cell(row) for column in columns] for row in rows])),
        *(_table(*scenario_cells(results))),
        *scenario_notes(results),
        *notes(results),
    ]
    return "\n".join(lines) + "\n"


def _table(
    columns: Sequence[Column] | Sequence[ScenarioColumn], cells: list[list[str]]
) -> list[str]:
    """Return the lines of a table and an empty line; no lines without rows."""
    if not cells:
        return []
    return [
        _line([column.heading for column in columns]),
        _line(["---:" if column.numeric else "---" for column in columns]),
        *(_line(row) for row in cells),
        "",
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
