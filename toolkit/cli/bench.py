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
    scenario_options,
    session_options,
    sweep_option,
)
from toolkit.cli.outcome import INTERRUPTED, Outcome, outcome_of
from toolkit.cli.shared import or_default, results_outcome, trust

if TYPE_CHECKING:
    from toolkit.progress import Progress
    from toolkit.schema import ScenarioName


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
@click.option("--streams", type=int, default=1, show_default=True, help="Concurrent calls.")
@sweep_option
@scenario_options
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
    scenario: ScenarioName | None,
    latency_bound_ms: float | None,
    min_time_s: float | None,
    min_rounds: int,
    precision: float | None,
    max_time_s: float,
    settings_file: Path | None,
    **options: Any,
) -> Outcome:
    """Measure throughput, latency, load time and memory of artifacts.

    Takes export folders or single artifacts. Default: the exports of the reference CNN.
    """
    import toolkit
    from toolkit.measurement.bench import InterruptedBench
    from toolkit.measurement.plan import DEFAULT_TIME_S, SCENARIO_TIME_S, Plan

    if min_time_s is None:
        min_time_s = DEFAULT_TIME_S if scenario is None else SCENARIO_TIME_S
    plan = Plan(
        min_time_s=min_time_s, min_rounds=min_rounds, precision=precision, max_time_s=max_time_s
    )
    trust(options["model"])
    tuned = None if settings_file is None else toolkit.read_tuning(settings_file).chosen
    if tuned is not None:
        _refuse_beside(click.get_current_context())
    places = or_default(paths) if tuned is None else list(paths)
    try:
        results = toolkit.bench(
            places,
            **options,
            tuned=tuned,
            sweep=read_sweep(sweep),
            plan=plan,
            scenario=scenario,
            latency_bound_s=None if latency_bound_ms is None else latency_bound_ms / 1e3,
            progress=progress,
        )
    except InterruptedBench as stop:
        return replace(results_outcome(stop.results), exit_code=INTERRUPTED)
    return results_outcome(results)


def _refuse_beside(context: click.Context) -> None:
    """Raise UsageError if an option is given whose value comes from the settings file."""
    decided = ("runtimes", "batch_size", "threads", "streams", "device", "keep_memory", "sweep")
    for name in (*decided, "scenario"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(
                f"--settings and {flag} cannot be used together; remove one of them"
            )
