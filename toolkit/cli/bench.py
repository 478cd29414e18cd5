"""`toolkit bench`: artifacts → speeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import (
    SweepCommand,
    checkpoint_option,
    paths_argument,
    plan_options,
    read_sweep,
    session_options,
    streams_option,
    sweep_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import or_default, results_outcome, take
from toolkit.interruption import exit_code_of

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command(cls=SweepCommand)
@paths_argument
@checkpoint_option
@plan_options
@click.option(
    "--baseline",
    metavar="RUNTIME",
    help="Runtime to compare the others with. Default: eager, if it is measured.",
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure the configuration that 'toolkit tune' wrote to FILE, and eager for comparison.",
)
@streams_option
@sweep_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write results.json, .md and .csv to."
)
@session_options
@outcome_of
def bench(
    progress: Progress,
    *,
    paths: tuple[Path, ...],
    sweep: tuple[str, ...],
    settings_file: Path | None,
    **options: Any,
) -> Outcome:
    """Measure throughput, latency, load time and memory of artifacts.

    Takes export folders or single artifacts. Default: the exports of the reference CNN.
    """
    import toolkit
    from toolkit.errors import Interrupted

    plan = take(toolkit.Plan, options)
    session = take(toolkit.SessionOptions, options)
    tuned = None if settings_file is None else toolkit.read_tuning(settings_file).chosen
    if tuned is not None:
        _refuse_beside(click.get_current_context())
    places = or_default(paths) if tuned is None else list(paths)
    try:
        results = toolkit.bench(
            places,
            session=session,
            **options,
            tuned=tuned,
            sweep=read_sweep(sweep),
            plan=plan,
            progress=progress,
        )
    except Interrupted as stop:
        return replace(results_outcome(stop.results), exit_code=exit_code_of(stop))
    return results_outcome(results)


def _refuse_beside(context: click.Context) -> None:
    """Raise UsageError if an option is given whose value comes from the settings file."""
    decided = ("runtimes", "batch_size", "threads", "streams", "device", "keep_memory", "sweep")
    for name in decided:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(
                f"--settings and {flag} cannot be used together; remove one of them"
            )
