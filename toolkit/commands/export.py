"""`toolkit export`: checkpoint → artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.shared import EXPORTS, REFERENCE, trust
from toolkit.options import force_option, formats_option, model_option
from toolkit.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.progress import Progress


@click.command()
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

    trust(model)
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
