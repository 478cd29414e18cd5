"""`toolkit bench`: artifacts → speeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import (
    SweepCommand,
    checkpoint_option,
    out_option,
    paths_argument,
    plan_options,
    quick_option,
    read_sweep,
    session_options,
    streams_option,
    sweep_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import interrupted_outcome, or_default, results_outcome, take

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
@quick_option
@out_option
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

    plan: toolkit.Plan | None = take(toolkit.Plan, options)
    if options["quick"]:
        _refuse_beside("quick", _PLANNED)
        plan = None
    session = take(toolkit.SessionOptions, options)
    tuned = None if settings_file is None else toolkit.read_tuning(settings_file).chosen
    if tuned is not None:
        _refuse_beside("settings_file", _TUNED)
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
        return interrupted_outcome(stop, results_outcome(stop.results, options["out"]))
    return results_outcome(results, options["out"])


_TUNED = ("runtimes", "batch_size", "threads", "streams", "device", "keep_memory", "sweep")
_PLANNED = ("min_time_s", "min_rounds", "target_width", "max_time_s")


def _refuse_beside(option: str, decided: Sequence[str]) -> None:
    """Raise UsageError if an option is given whose value another option decides."""
    context = click.get_current_context()
    flags = {each.name: each.opts[0] for each in context.command.params}
    for name in decided:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{flags[option]} and {flags[name]} cannot be used together; remove one of them"
            )
