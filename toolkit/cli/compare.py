"""`toolkit compare`: two runs → what is slower or faster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import Share
from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.progress import Progress


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fail-below",
    type=Share(),
    default=-0.03,
    metavar="-3%",
    help="Share that a loss must be shown to exceed to be a regression; 0: any; default: -3%.",
)
@click.option(
    "--allow-undecided", is_flag=True, help="Exit with 0 where rows are undecided, not with 4."
)
@click.option("--anyway", is_flag=True, help="Compare although the machines differ.")
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
    """Compare the speeds in the results file NEW with those in OLD, of the same machine.

    Takes files that bench or run wrote, or the folders that hold their results.json. Each row is
    judged against the other rows and against its own past, with one error rate of 5 % for all.

    Exit code 0: no regression. 1: a regression, that is a loss of a row's own beyond --fail-below,
    or a candidate that was measured then and fails now. 2: nothing could be judged. 4: undecided,
    because all rows lost speed, a run had other load beside it or stopped early, or the machine
    was not as fast; measure both runs again.
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
