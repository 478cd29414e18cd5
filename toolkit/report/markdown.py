"""Results as a Markdown page."""

from __future__ import annotations

from toolkit.report.machine import machine_facts
from toolkit.report.summary import filled_columns, notes, summarise
from toolkit.schema import Results


def render_markdown(results: Results) -> str:
    """A page with the table, what was measured on what, and the notes."""
    rows = summarise(results)
    columns = filled_columns(rows)
    environment, checkpoint = results.environment, results.checkpoint
    lines = [
        f"# {checkpoint.name}: parity and throughput",
        "",
        f"- Checkpoint `{checkpoint.name}`, sha256 `{checkpoint.sha256}`",
        f"- Data: {results.dataset.name}, {results.dataset.split} split, "
        f"{results.dataset.images:,} images",
        f"- Time: {environment.time}",
        *(
            f"- {label[0].upper() + label[1:]}: {text}"
            for label, text in machine_facts(environment).items()
        ),
        "",
        _line([column.heading for column in columns]),
        _line(["---:" if column.numeric else "---" for column in columns]),
        *(_line([column.cell(row) for column in columns]) for row in rows),
        "",
        *notes(results),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
