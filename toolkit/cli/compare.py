"""`toolkit compare`: two results files → regressions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import anyway_option, fail_below_option

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@fail_below_option
@click.option(
    "--allow-undecided", is_flag=True, help="Exit with code 0 instead of 4 when rows are undecided."
)
@anyway_option
@outcome_of
def compare(
    progress: Progress,
    *,
    old: Path,
    new: Path,
    fail_below: float,
    allow_undecided: bool,
    anyway: bool,
) -> Outcome:
    """Compare two results files of one machine and report regressions.

    OLD and NEW are files that bench or run wrote, or the folders that hold their results.json.
    Each row is compared with the other rows and with its own earlier result. All rows share one
    error rate of 5 %.

    Exit code 0: no regression. 1: a regression, which means that a row alone lost more than
    --fail-below, or that a candidate was measured before and fails now. 2: nothing could be
    judged. 4: undecided, because all rows lost speed, other load was present, a run stopped early,
    or the machine was slower; measure both runs again.
    """
    import toolkit
    from toolkit.report.comparison import render_comparison
    from toolkit.schema import to_json

    found = toolkit.compare(
        toolkit.read_results(old),
        toolkit.read_results(new),
        fail_below=fail_below,
        allow_undecided=allow_undecided,
        anyway=anyway,
    )
    return Outcome(
        record={**to_json(found), "exit_code": found.exit_code},
        text=render_comparison(found),
        exit_code=found.exit_code,
    )
