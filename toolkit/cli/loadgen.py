"""`toolkit loadgen`: artifacts under MLPerf's LoadGen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import (
    checkpoint_option,
    out_option,
    paths_argument,
    scenario_options,
    session_options,
    streams_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import interrupted_outcome, or_default, results_outcome, take

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@paths_argument
@checkpoint_option
@scenario_options
@streams_option
@out_option
@session_options
@outcome_of
def loadgen(
    progress: Progress, *, paths: tuple[Path, ...], latency_bound_ms: float | None, **options: Any
) -> Outcome:
    """Time artifacts with MLPerf's LoadGen, by its rules.

    Takes export folders or single artifacts; default: the reference CNN's exports.
    """
    import toolkit
    from toolkit.errors import Interrupted

    try:
        results = toolkit.loadgen(
            or_default(paths),
            session=take(toolkit.SessionOptions, options),
            **options,
            latency_bound_s=None if latency_bound_ms is None else latency_bound_ms / 1e3,
            progress=progress,
        )
    except Interrupted as stop:
        return interrupted_outcome(stop, results_outcome(stop.results, options["out"]))
    return results_outcome(results, options["out"])
