"""`toolkit run`: train, export, verify, bench → one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import (
    embed_option,
    formats_option,
    gates_options,
    precisions_option,
    session_options,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import interrupted_outcome, results_outcome, take

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Use this checkpoint. Default: train one."
)
@click.option("--quick", is_flag=True, help="Train on fewer images and measure for a shorter time.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write results to. Default: runs/<time>.",
)
@formats_option
@precisions_option
@embed_option
@gates_options
@session_options
@outcome_of
def run(progress: Progress, **options: Any) -> Outcome:
    """Train, export, verify and benchmark, then print one table."""
    import toolkit
    from toolkit.errors import Interrupted

    try:
        done = toolkit.run(
            gates=take(toolkit.GateSettings, options),
            session=take(toolkit.SessionOptions, options),
            **options,
            progress=progress,
        )
    except Interrupted as stop:
        return interrupted_outcome(stop, results_outcome(stop.results))
    outcome = results_outcome(done.results, done.folder)
    return replace(
        outcome,
        record={"folder": str(done.folder), **outcome.record},
        text=f"{outcome.text}\n{done.folder}/results.json (.md, .csv)",
    )
