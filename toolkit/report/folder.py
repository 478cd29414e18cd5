"""Results in a folder: `results.json`, and the same for people (`.md`) and for plots (`.csv`)."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import OutputError
from toolkit.files import check_writable, write_atomically
from toolkit.report.csv import render_csv
from toolkit.report.markdown import render_markdown
from toolkit.results import RESULTS, write_results
from toolkit.schema import Results


def write_folder(folder: Path, results: Results) -> None:
    """Write all three files, each atomically.

    Raises:
        OutputError: not writable, or the disk is full.
    """
    write_results(folder / RESULTS, results)
    write_atomically(folder / "results.md", render_markdown(results))
    write_atomically(folder / "results.csv", render_csv(results))


def refuse_to_mix(folder: Path) -> None:
    """A folder holds one run: raise OutputError where it has results of another, or where nothing
    can be written."""
    if (folder / RESULTS).exists():
        raise OutputError(f"{folder} already holds {RESULTS}; choose another folder with --out")
    check_writable(folder / RESULTS)
