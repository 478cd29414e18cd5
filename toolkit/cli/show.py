"""`toolkit show`: print a results file again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@outcome_of
def show(progress: Progress, *, results: Path) -> Outcome:
    """Print the table of a results file again.

    RESULTS is a results.json of bench, verify or run, a tuning.json of tune, or the folder that
    holds one of them. Nothing is run or judged again, and the exit code is 0.
    """
    from toolkit.cli.shared import with_verdict
    from toolkit.report.table import render_table, terminal_width
    from toolkit.report.tuning import render_tuning
    from toolkit.results import read_results_or_tuning
    from toolkit.schema import Results, to_json

    found = read_results_or_tuning(results)
    if isinstance(found, Results):
        return Outcome(
            record={**to_json(found), "exit_code": 0},
            text=with_verdict(found, render_table(found, width=terminal_width())),
        )
    return Outcome(record={**to_json(found), "exit_code": 0}, text=render_tuning(found))
