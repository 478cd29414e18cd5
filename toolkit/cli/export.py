"""`toolkit export`: checkpoint → artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.checkpoints.bundled import reference_checkpoint
from toolkit.cli.options import (
    data_option,
    embed_option,
    force_option,
    formats_option,
    model_option,
    precisions_option,
    trust_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import EXPORTS, dumps_of, interrupted_outcome

if TYPE_CHECKING:
    from toolkit.artifacts.exported import Export
    from toolkit.report.progress import Progress
    from toolkit.schema import Isa


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@formats_option
@precisions_option
@embed_option
@click.option(
    "--isa",
    "isas",
    multiple=True,
    type=click.Choice(["avx2", "vnni", "arm", "wasm"]),
    help="Instruction set on which int8 results must be exact; repeatable. Default: all. With "
    "avx2, weights in ONNX and OpenVINO files use 7 bits instead of 8.",
)
@data_option
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds to wait for a converter before it is stopped.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"Folder to write the artifacts to. Default: {EXPORTS}/<checkpoint>.",
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Private key (elliptic curve, PEM) to sign all files of the folder with, for 'toolkit "
    "verify --key'. Needs the extra 'signing'.",
)
@model_option
@trust_option
@force_option
@outcome_of
def export(
    progress: Progress,
    *,
    checkpoint: Path | None,
    formats: tuple[str, ...],
    precisions: tuple[str, ...],
    calibration_images: int,
    calibration_seed: int,
    isas: tuple[Isa, ...],
    embed_preprocessing: bool,
    data: Path | None,
    timeout_s: float,
    out: Path | None,
    sign: Path | None,
    model: str | None,
    trust: bool,
    force: bool,
) -> Outcome:
    """Export a checkpoint to one or more formats and precisions.

    CHECKPOINT is a checkpoint folder. Default: the reference CNN.
    """
    import toolkit

    checkpoint = checkpoint or reference_checkpoint()
    try:
        done = toolkit.export(
            checkpoint,
            out=out or EXPORTS / checkpoint.resolve().name,
            formats=formats,
            precisions=precisions,
            calibration=toolkit.CalibrationSettings(
                images=calibration_images, seed=calibration_seed, data=data
            ),
            isas=isas or None,
            embed_preprocessing=embed_preprocessing,
            model=model,
            trust=trust,
            force=force,
            sign=sign,
            timeout_s=timeout_s,
            progress=progress,
        )
    except toolkit.Interrupted as stop:
        return interrupted_outcome(stop, _outcome(stop.results))
    return _outcome(done)


def _outcome(done: Export) -> Outcome:
    """Return a table for people, a record for scripts, and the exit code of the failures."""
    from toolkit.report.labels import kind_of
    from toolkit.schema import to_json

    named = [
        (f"{item.format} {kind_of(item.precision, uint8=item.embeds_preprocessing)}", item.failure)
        for item in done.failures
    ]
    failed = {name: str(failure) for name, failure in named}
    dumps = [(name, failure.stderr_tail) for name, failure in named]
    return Outcome(
        record={
            "folder": str(done.folder),
            "written": list(done.written),
            "failed": failed,
            "signed_by": done.signed_by,
            "interrupted": done.interrupted,
            **to_json(done.manifest),
        },
        text=str(done),
        details=dumps_of(dumps),
        exit_code=3 if failed else 0,
    )
