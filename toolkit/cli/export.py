"""`toolkit export`: checkpoint → artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.checkpoints.bundled import reference_checkpoint
from toolkit.cli.options import (
    data_option,
    force_option,
    formats_option,
    model_option,
    precisions_option,
    trust_option,
)
from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import EXPORTS

if TYPE_CHECKING:
    from toolkit.artifacts.export import Export
    from toolkit.report.progress import Progress
    from toolkit.schema import Isa, Precision


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@formats_option
@precisions_option
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
    precisions: tuple[Precision, ...],
    calibration_images: int,
    calibration_seed: int,
    isas: tuple[Isa, ...],
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
    from toolkit.artifacts.calibration import CalibrationSettings
    from toolkit.schema import to_json

    checkpoint = checkpoint or reference_checkpoint()
    done = toolkit.export(
        checkpoint,
        out=out or EXPORTS / checkpoint.resolve().name,
        formats=formats,
        precisions=precisions,
        calibration=CalibrationSettings(
            images=calibration_images, seed=calibration_seed, data=data
        ),
        isas=isas or None,
        model=model,
        trust=trust,
        force=force,
        sign=sign,
        timeout_s=timeout_s,
        progress=progress,
    )
    failed = {f"{item.format} {item.precision}": str(item.failure) for item in done.failures}
    failures = [f"{name}: {reason}" for name, reason in failed.items()]
    told = [
        f"Warning: {item.format} {item.precision}: {each}"
        for item in done.artifacts
        for each in item.warnings
    ]
    cards = ["How to feed each file is in the card next to it: FILE.md"] if done.artifacts else []
    signed = [] if done.signed_by is None else [f"Signed by the key {done.signed_by}."]
    return Outcome(
        record={
            "folder": str(done.folder),
            "written": list(done.written),
            "failed": failed,
            "signed_by": done.signed_by,
            **to_json(done.manifest),
        },
        text="\n".join([_table(done), *cards, *signed, *told, *failures]),
        exit_code=3 if failures else 0,
    )


def _table(done: Export) -> str:
    """Return the artifacts in the folder as a text table."""
    from toolkit.report.table import aligned

    headings = ["format", "precision", "file", "size MB", "sha256", ""]
    rows = [
        [
            item.format,
            item.precision,
            str(done.folder / item.path),
            f"{item.size_bytes / 1e6:.2f}",
            item.sha256[:12],
            "written" if item.path in done.written else "up to date",
        ]
        for item in done.artifacts
    ]
    return aligned(headings, rows, numeric=[False, False, False, True, False, False])
