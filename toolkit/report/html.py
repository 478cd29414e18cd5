"""Records as HTML, for notebooks: the table and notes that a terminal shows.

Names and reasons come from files, so every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from toolkit.report.columns import filled_columns, summarise
from toolkit.report.comparison import comparison_cells, comparison_notes
from toolkit.report.notes import notes
from toolkit.report.scenario import scenario_cells, scenario_notes
from toolkit.report.text import text_of
from toolkit.report.tuning import tuning_cells, tuning_notes
from toolkit.schema import Comparison, Results, Shown, Tuning


def html_of(record: Shown) -> str:
    """Return a record as HTML."""
    match record:
        case Results():
            return _of_results(record)
        case Tuning():
            return html_table(*tuning_cells(record), notes=tuning_notes(record))
        case Comparison():
            return html_table(*comparison_cells(record), notes=comparison_notes(record))
    return f"<pre>{escape(text_of(record))}</pre>"


def _of_results(results: Results) -> str:
    rows = summarise(results)
    columns = filled_columns(rows)
    tables = []
    if rows:
        cells = [[column.cell(row) for column in columns] for row in rows]
        numeric = [column.numeric for column in columns]
        tables.append(html_table([column.heading for column in columns], cells, numeric))
    if results.scenarios:
        others, cells = scenario_cells(results)
        numeric = [column.numeric for column in others]
        tables.append(html_table([column.heading for column in others], cells, numeric))
    return "\n".join([*tables, _paragraphs([*scenario_notes(results), *notes(results)])])


def html_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    *,
    notes: Sequence[str] = (),
) -> str:
    """Return a table, with a paragraph for each note below it."""
    head = _row("th", headings, numeric)
    body = "\n".join(_row("td", row, numeric) for row in rows)
    table = f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return "\n".join([table, _paragraphs(notes)])


def _row(tag: str, cells: Sequence[str], numeric: Sequence[bool]) -> str:
    side = {True: "right", False: "left"}
    return "".join(
        [
            "<tr>",
            *(
                f'<{tag} style="text-align: {side[right]}">{escape(cell)}</{tag}>'
                for cell, right in zip(cells, numeric, strict=True)
            ),
            "</tr>",
        ]
    )


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
