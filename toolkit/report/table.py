"""The table that a command ends with, for a terminal."""

from __future__ import annotations

import io
import shutil
import sys

from toolkit.report.summary import filled_columns, notes, summarise
from toolkit.schema import Results

_UNLIMITED_WIDTH = 400


def render_table(results: Results) -> str:
    """Results as aligned text. In a terminal it keeps to the terminal's width."""
    rows = summarise(results)
    columns = filled_columns(rows)
    text = aligned(
        [column.heading for column in columns],
        [[column.cell(row) for column in columns] for row in rows],
        numeric=[column.numeric for column in columns],
    )
    return "\n".join([text, *notes(results)])


def aligned(headings: list[str], rows: list[list[str]], *, numeric: list[bool]) -> str:
    """Headings and cells in columns; numeric ones to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else _UNLIMITED_WIDTH
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False)
    console.print(table)
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines())
