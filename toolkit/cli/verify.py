"""`toolkit verify`: artifacts → verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import (
    checkpoint_option,
    gates_options,
    out_option,
    paths_argument,
    quick_option,
    session_options,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import interrupted_outcome, or_default, results_outcome, take

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@paths_argument
@checkpoint_option
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUB",
    help="Public key (PEM) of whoever signed the folders with 'toolkit export --sign'. Anything "
    "that it did not sign is refused. Needs the extra 'signing'.",
)
@gates_options
@quick_option
@out_option
@session_options
@outcome_of
def verify(progress: Progress, *, paths: tuple[Path, ...], **options: Any) -> Outcome:
    """Compare artifacts with their checkpoint on all test images.

    Takes export folders or single artifacts. Default: the exports of the reference CNN.
    """
    import toolkit

    try:
        results = toolkit.verify(
            or_default(paths),
            gates=take(toolkit.GateSettings, options),
            session=take(toolkit.SessionOptions, options),
            **options,
            progress=progress,
        )
    except toolkit.Interrupted as stop:
        return interrupted_outcome(stop, results_outcome(stop.results, options["out"]))
    return results_outcome(results, options["out"])
