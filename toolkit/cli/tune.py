"""`toolkit tune`: artifacts → the fastest configuration that passes verification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import (
    accuracy_option,
    batch_size_option,
    checkpoint_option,
    data_option,
    flips_option,
    model_option,
    paths_argument,
    quick_option,
    runtimes_option,
    threads_option,
    timeout_option,
    trust_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import interrupted_outcome, or_default

if TYPE_CHECKING:
    from toolkit.report.progress import Progress
    from toolkit.schema import Tuning


@click.command()
@paths_argument
@checkpoint_option
@runtimes_option
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME",
    help="Use only artifacts of this precision; repeatable. Default: all.",
)
@flips_option
@accuracy_option
@click.option(
    "--max-latency",
    "max_latency_ms",
    type=float,
    metavar="MS",
    help="Maximum median latency of a call, in milliseconds.",
)
@click.option(
    "--max-size",
    "max_size_mb",
    type=float,
    metavar="MB",
    help="Maximum size of the artifact, in megabytes.",
)
@batch_size_option
@threads_option
@timeout_option
@data_option
@model_option
@trust_option
@quick_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default=True,
    help="Folder to write tuning.json to. Pass that file to 'toolkit bench --settings'.",
)
@outcome_of
def tune(
    progress: Progress,
    *,
    paths: tuple[Path, ...],
    checkpoint: Path | None,
    runtimes: tuple[str, ...],
    precisions: tuple[str, ...],
    max_flips: int | None,
    max_accuracy_drop: float | None,
    max_latency_ms: float | None,
    max_size_mb: float | None,
    batch_size: int,
    threads: int | None,
    timeout_s: float,
    data: Path | None,
    model: str | None,
    trust: bool,
    quick: bool,
    out: Path,
) -> Outcome:
    """Find the fastest configuration that passes verification.

    A configuration is a runtime, a precision, and numbers of threads and streams. Takes export
    folders or single artifacts. Default: the exports of the reference CNN. --threads limits the
    number of threads that work at the same time.
    """
    import toolkit
    from toolkit.results import TUNING

    try:
        found = toolkit.tune(
            or_default(paths),
            runtimes=runtimes,
            precisions=precisions,
            checkpoint=checkpoint,
            data=data,
            batch_size=batch_size,
            threads=threads,
            constraints=toolkit.Constraints(
                max_flips=max_flips,
                max_accuracy_drop=max_accuracy_drop,
                max_latency_s=None if max_latency_ms is None else max_latency_ms / 1e3,
                max_size_bytes=None if max_size_mb is None else max_size_mb * 1e6,
            ),
            quick=quick,
            out=out,
            timeout_s=timeout_s,
            model=model,
            trust=trust,
            progress=progress,
        )
    except toolkit.Interrupted as stop:
        return interrupted_outcome(stop, _outcome(stop.results))
    outcome = _outcome(found)
    return replace(outcome, text=f"{outcome.text}\n{out / TUNING}")


def _outcome(found: Tuning) -> Outcome:
    from toolkit.schema import to_json

    return Outcome(record=to_json(found), text=str(found), exit_code=found.exit_code)
