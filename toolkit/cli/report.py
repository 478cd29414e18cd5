"""`toolkit report`: results files → a page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Page to write. Default: report.html beside the last RESULTS.",
)
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@outcome_of
def report(
    progress: Progress, *, results: tuple[Path, ...], html: Path | None, open_it: bool
) -> Outcome:
    """Write results as one HTML page that opens without a network.

    RESULTS is a results.json of bench, verify or run, or the folder that holds it. With two, the
    page shows the second run, and what changed since the first. Nothing is run or judged again,
    and the exit code is 0.
    """
    import toolkit
    from toolkit.cli.shared import REPORT
    from toolkit.errors import SettingError
    from toolkit.results import write_report

    if len(results) > 2:
        raise SettingError(f"give one results file, or an old and a new one, not {len(results)}")
    *older, newest = (toolkit.read_results(each) for each in results)
    comparison = toolkit.compare(older[0], newest, anyway=True) if older else None
    last = results[-1]
    page = html or (last if last.is_dir() else last.parent) / REPORT
    write_report(page, newest, comparison)
    if open_it:
        click.launch(str(page))
    return Outcome(record={"html": str(page), "exit_code": 0}, text=str(page))
