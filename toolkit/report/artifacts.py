"""The artifacts of a folder as a table.

In: their records, and which of them were written now. Out: headings and cells, for a terminal or a
notebook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from toolkit.report.labels import kind_of
from toolkit.schema import Artifact

NUMERIC = [False, False, False, True, False, False]


def artifact_cells(
    folder: Path, artifacts: Iterable[Artifact], *, written: Collection[str]
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, the cells of each artifact, and which columns are numeric."""
    headings = ["format", "precision", "file", "size MB", "sha256", ""]
    rows = [
        [
            item.format,
            kind_of(item.precision, uint8=item.embeds_preprocessing),
            str(folder / item.path),
            f"{item.size_bytes / 1e6:.2f}",
            item.sha256[:12],
            "written" if item.path in written else "up to date",
        ]
        for item in artifacts
    ]
    return headings, rows, NUMERIC
