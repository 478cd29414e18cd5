"""The table at the end of a command, for a terminal."""

from __future__ import annotations

import io
import shutil
import sys

from toolkit.report.columns import Column, SummaryRow, droppable, filled_columns, summarise
from toolkit.report.notes import notes
from toolkit.report.scenario import scenario_cells, scenario_notes
from toolkit.schema import Results

_UNLIMITED_WIDTH = 1000
_GUTTER = 3  # rich's padding between two columns


def render_table(results: Results, *, width: int | None = None) -> str:
    """Return results as aligned text, at most `width` columns wide if possible (None: no limit).
    The least important columns are left out and named below the table, but none that tells two rows
    apart."""
    rows = summarise(results)
    if results.scenarios and not rows:
        return "\n".join([_scenario_table(results), *scenario_notes(results), *notes(results)])
    columns = filled_columns(rows)
    dropped = []
    while width is not None and _width(columns, rows) > width:
        last = droppable(columns, rows)
        if last is None:
            break
        columns.remove(last)
        dropped.append(last.heading)
    text = aligned(
        [column.heading for column in columns],
        [[column.cell(row) for column in columns] for row in rows],
        numeric=[column.numeric for column in columns],
    )
    hint = (
        [(f"Not shown because the terminal is too narrow: {', '.join(dropped)}; see --json.")]
        if dropped
        else []
    )
    return "\n".join([text, *notes(results), *hint])


def _scenario_table(results: Results) -> str:
    columns, cells = scenario_cells(results)
    headings = [column.heading for column in columns]
    return aligned(headings, cells, numeric=[column.numeric for column in columns])


def terminal_width() -> int | None:
    """Return the width of the terminal, or None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _width(columns: list[Column], rows: list[SummaryRow]) -> int:
    cells = [[column.heading, *(column.cell(row) for row in rows)] for column in columns]
    return sum(max(map(len, column)) + _GUTTER for column in cells) - _GUTTER


def aligned(headings: list[str], rows: list[list[str]], *, numeric: list[bool]) -> str:
    """Return headings and cells in aligned columns; numeric columns are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(
        file=io.StringIO(), width=_UNLIMITED_WIDTH, color_system=None, markup=False, emoji=False
    )
    console.print(table)
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines())
