"""`toolkit compare`: two runs → what is slower or faster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.options import Share
from toolkit.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.progress import Progress


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fail-below",
    type=Share(),
    default=0.0,
    metavar="-3%",
    help="A significant loss up to this share is no regression; default: any is one.",
)
@click.option("--anyway", is_flag=True, help="Compare although the machines differ.")
@outcome_of
def compare(
    progress: Progress, *, old: Path, new: Path, fail_below: float, anyway: bool
) -> Outcome:
    """Compare the speeds in the results file NEW with those in OLD, of the same machine.

    Takes files that bench or run wrote, or the folders that hold their results.json. Exit code 1 is
    a regression: a significant loss, or a candidate that was measured then and fails now.
    """
    import toolkit
    from toolkit.report.comparison import render_comparison
    from toolkit.schema import to_json

    found = toolkit.compare(
        toolkit.read_results(old),
        toolkit.read_results(new),
        fail_below=fail_below,
        anyway=anyway,
    )
    return Outcome(record=to_json(found), text=render_comparison(found), exit_code=found.exit_code)
