"""The command line: parse, call, say. What a command returns is printed by `toolkit.outcome`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done and passed; 1 a verdict
failed; 2 wrong usage or bad input; 3 something could not be run; 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.options import (
    Share,
    SweepCommand,
    checkpoint_option,
    data_option,
    force_option,
    formats_option,
    model_option,
    paths_argument,
    plan_options,
    scenario_options,
    session_options,
    sweep_option,
    threads_option,
)
from toolkit.outcome import INTERRUPTED, Outcome, outcome_of, started_by_torchrun

if TYPE_CHECKING:
    from toolkit.formats import Format
    from toolkit.progress import Progress
    from toolkit.runtimes import Runtime
    from toolkit.schema import Results, ScenarioName

REFERENCE = Path("models/mnist-cnn")
EXPORTS = Path("models/exports")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="toolkit")
def commands() -> None:
    """Export a trained PyTorch classifier, prove that it is still the same model, and measure how
    fast it really is.

    Exit codes: 0 done and passed; 1 a verdict failed; 2 wrong usage or bad input; 3 something
    could not be run; 130 interrupted.
    """


@commands.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("models/trained"),
    show_default=True,
    help="Checkpoint folder to write.",
)
@click.option(
    "--recipe",
    type=click.Choice(["fast", "plain"]),
    help="How to train: fast (default), or plain: what the usual script does, to compare with.",
)
@click.option("--epochs", type=float, help="Passes over the data, also 1.5; default: the recipe's.")
@click.option("--batch-size", type=int, help="Images a step; default: the recipe's.")
@click.option("--lr", type=float, help="Adam's (peak) learning rate; default: the recipe's.")
@click.option(
    "--seed",
    type=int,
    help="Same seed, same machine, same threads: the same weights; default: 1.",
)
@click.option(
    "--augment",
    is_flag=True,
    default=None,
    help="Rotate, shift and zoom the training images a little.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option(
    "--save-every",
    "save_every_s",
    type=float,
    default=10.0,
    show_default=True,
    help="Seconds after which the state is written, for --resume.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the training that was interrupted in --out, with the options it had.",
)
@threads_option
@data_option
@force_option
@outcome_of
def train(progress: Progress, **options: Any) -> Outcome:
    """Train the reference CNN and write a checkpoint."""
    import toolkit
    from toolkit.schema import to_json

    checkpoint = toolkit.train(**options, progress=progress)
    accuracy = checkpoint.training.accuracy if checkpoint.training else 0.0
    return Outcome(
        record={"path": str(options["out"]), **to_json(checkpoint)},
        text=f"{options['out']}: test accuracy {accuracy:.2%}, sha256 {checkpoint.sha256[:12]}",
    )


@commands.command(name="import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "factory",
    required=True,
    metavar="MODULE:FUNCTION",
    help="Factory of the model; it is imported from the current folder too.",
)
@click.option("--input-shape", required=True, metavar="C,H,W", help="Shape of one image.")
@click.option("--classes", type=int, required=True, help="Number of classes.")
@click.option("--mean", required=True, metavar="M,...", help="Mean a channel, pixels in 0..1.")
@click.option("--std", required=True, metavar="S,...", help="Standard deviation a channel.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write."
)
@force_option
@outcome_of
def import_(
    progress: Progress,
    *,
    weights: Path,
    factory: str,
    input_shape: str,
    classes: int,
    mean: str,
    std: str,
    out: Path,
    force: bool,
) -> Outcome:
    """Make a checkpoint from the state_dict file WEIGHTS of your own model.

    Nothing is unpickled but tensors.
    """
    import toolkit
    from toolkit.schema import InputSpec, ModelSpec, to_json

    _import_from_here()
    shape = _numbers("--input-shape", input_shape, int, count=3)
    spec = InputSpec(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        mean=_numbers("--mean", mean, float),
        std=_numbers("--std", std, float),
    )
    checkpoint = toolkit.import_weights(
        weights,
        out=out,
        model=ModelSpec(factory=factory),
        input_spec=spec,
        classes=classes,
        force=force,
    )
    return Outcome(
        record={"path": str(out), **to_json(checkpoint)},
        text=f"{out}: checkpoint written, sha256 {checkpoint.sha256[:12]}; "
        f"next: toolkit export {out} --model {factory}",
    )


@commands.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), default=REFERENCE)
@formats_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"Folder for the artifacts; default: {EXPORTS}/<checkpoint>.",
)
@model_option
@force_option
@outcome_of
def export(
    progress: Progress,
    *,
    checkpoint: Path,
    formats: tuple[str, ...],
    out: Path | None,
    model: str | None,
    force: bool,
) -> Outcome:
    """Write the artifacts of CHECKPOINT (default: the reference CNN), one file a format."""
    import toolkit
    from toolkit.report.table import aligned
    from toolkit.schema import to_json

    _trust(model)
    done = toolkit.export(
        checkpoint,
        out=out or EXPORTS / checkpoint.resolve().name,
        formats=formats,
        model=model,
        force=force,
        progress=progress,
    )
    rows = [
        [
            item.format,
            item.precision,
            str(done.folder / item.path),
            f"{item.size_bytes / 1e6:.2f}",
            item.sha256[:12],
            "written" if item.format in done.written else "up to date",
        ]
        for item in done.artifacts
    ]
    headings = ["format", "precision", "file", "size MB", "sha256", ""]
    failures = [f"{item.format}: {item.failure}" for item in done.failures]
    table = aligned(headings, rows, numeric=[False, False, False, True, False, False])
    return Outcome(
        record={
            "folder": str(done.folder),
            "written": list(done.written),
            "failed": {item.format: str(item.failure) for item in done.failures},
            **to_json(done.manifest),
        },
        text="\n".join([table, *failures]),
        exit_code=3 if failures else 0,
    )


@commands.command()
@paths_argument
@checkpoint_option
@click.option("--max-flips", type=int, help="Allowed flips; default: 0 for fp32, else no limit.")
@click.option(
    "--max-accuracy-drop",
    type=float,
    help="Allowed drop as a fraction; default: none for fp32, else 0.001.",
)
@session_options
@outcome_of
def verify(progress: Progress, *, paths: tuple[Path, ...], **options: Any) -> Outcome:
    """Compare artifacts with their checkpoint on all test images.

    Takes export folders or single artifacts; default: the reference CNN's exports.
    """
    import toolkit

    _trust(options["model"])
    return _results(toolkit.verify(_or_default(paths), **options, progress=progress))


@commands.command(cls=SweepCommand)
@paths_argument
@checkpoint_option
@plan_options
@click.option(
    "--baseline",
    metavar="RUNTIME",
    help="Runtime that the others are compared with; default: eager, where it takes part.",
)
@click.option("--streams", type=int, default=1, show_default=True, help="Calls at the same time.")
@sweep_option
@scenario_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for results.json, .md and .csv."
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
    **options: Any,
) -> Outcome:
    """Measure throughput, latency, load time and memory of artifacts, in interleaved rounds.

    Takes export folders or single artifacts; default: the reference CNN's exports.
    """
    import toolkit
    from toolkit.benchmark import InterruptedBench
    from toolkit.plan import DEFAULT_TIME_S, SCENARIO_TIME_S, Plan

    if min_time_s is None:
        min_time_s = DEFAULT_TIME_S if scenario is None else SCENARIO_TIME_S
    plan = Plan(
        min_time_s=min_time_s, min_rounds=min_rounds, precision=precision, max_time_s=max_time_s
    )
    _trust(options["model"])
    try:
        results = toolkit.bench(
            _or_default(paths),
            **options,
            sweep=_grid(sweep),
            plan=plan,
            scenario=scenario,
            latency_bound_s=None if latency_bound_ms is None else latency_bound_ms / 1e3,
            progress=progress,
        )
    except InterruptedBench as stop:
        return replace(_results(stop.results), exit_code=INTERRUPTED)
    return _results(results)


@commands.command()
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
        toolkit.read_results(old), toolkit.read_results(new), fail_below=fail_below, anyway=anyway
    )
    return Outcome(record=to_json(found), text=render_comparison(found), exit_code=found.exit_code)


@commands.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Use this checkpoint; default: train one."
)
@click.option("--quick", is_flag=True, help="Train on a slice and time short.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: runs/<time>.")
@formats_option
@session_options
@outcome_of
def run(progress: Progress, **options: Any) -> Outcome:
    """The whole way: train, export, verify, bench, and one table at the end."""
    import toolkit
    from toolkit.benchmark import InterruptedBench

    _trust(options["model"])
    try:
        done = toolkit.run(**options, progress=progress)
    except InterruptedBench as stop:
        return replace(_results(stop.results), exit_code=INTERRUPTED)
    outcome = _results(done.results)
    return replace(
        outcome,
        record={"folder": str(done.folder), **outcome.record},
        text=f"{outcome.text}\n{done.folder}/results.json (.md, .csv)",
    )


@commands.command()
@outcome_of
def runtimes(progress: Progress) -> Outcome:
    """List runtimes and formats: the version installed, or the command that installs it."""
    from toolkit.formats import FORMATS
    from toolkit.runtimes import RUNTIMES

    record = {
        "runtimes": [_runtime_record(row) for row in RUNTIMES.values()],
        "formats": [_format_record(row) for row in FORMATS.values()],
    }
    lines = [f"{'runtime':<13} {'version, or how to install':<28} loads"]
    for row in RUNTIMES.values():
        lines.append(f"{row.name:<13} {row.version() or row.install:<28} {', '.join(row.formats)}")
    lines += ["", f"{'format':<13} written with, or how to install"]
    for item in FORMATS.values():
        missing = item.missing()
        found = ", ".join(f"{name} {version}" for name, version in item.versions().items())
        lines.append(f"{item.name:<13} {item.install if missing else found}")
    return Outcome(record=record, text="\n".join(lines))


@commands.command()
@threads_option
@outcome_of
def doctor(progress: Progress, *, threads: int | None) -> Outcome:
    """Is this machine fit to measure on? Facts, load of others, measured limits, warnings.

    A warning names the flag or the action that helps; it is no failure.
    """
    import toolkit
    from toolkit.report.machine import render_diagnosis
    from toolkit.schema import to_json

    found = toolkit.doctor(threads=threads, progress=progress)
    return Outcome(record=to_json(found), text=render_diagnosis(found))


def _runtime_record(row: Runtime) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version(),
        "formats": list(row.formats),
        "install": row.install,
    }


def _format_record(row: Format) -> dict[str, Any]:
    return {
        "name": row.name,
        "versions": row.versions(),
        "installed": not row.missing(),
        "install": row.install,
    }


def _results(results: Results) -> Outcome:
    from toolkit.report.table import render_table, terminal_width
    from toolkit.schema import to_json

    return Outcome(
        record=to_json(results),
        text=render_table(results, width=terminal_width()),
        exit_code=results.exit_code,
    )


def _or_default(paths: tuple[Path, ...]) -> list[Path]:
    return list(paths) or [EXPORTS / REFERENCE.name]


def _trust(model: str | None) -> None:
    if model is not None:
        _import_from_here()


def _import_from_here() -> None:
    """Let the user's model factory be imported from the current folder, as `python -m` would."""
    sys.path.insert(0, str(Path.cwd()))


def _grid(sweep: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`("batch-size=1,10", "threads=1,2")` as names and values."""
    pairs = [part.partition("=") for text in sweep for part in text.split() or [""]]
    grid: dict[str, tuple[int, ...]] = {}
    for name, _, values in pairs:
        if name in grid:
            raise click.BadParameter(
                f"{name} is given twice, expected once, as {name}=1,2", param_hint="--sweep"
            )
        grid[name] = _numbers(f"--sweep {name}".strip(), values, int)
    return grid


def _numbers(flag: str, text: str, kind: type, *, count: int | None = None) -> tuple[Any, ...]:
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected numbers with commas", param_hint=flag
        ) from error
    if count is not None and len(values) != count:
        raise click.BadParameter(f"{text!r}: expected {count} numbers", param_hint=flag)
    return values


def main() -> None:
    """Entry point. A polite kill (SIGTERM) ends like Ctrl-C: children reaped, no half file. Not
    under torchrun, which ends its processes so while they wait for each other."""
    if not started_by_torchrun():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    commands()
