"""`toolkit import`: your own state_dict → checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import force_option, read_numbers
from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command(name="import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "factory",
    required=True,
    metavar="MODULE:FUNCTION",
    help="Factory function of the model. The current folder is searched last.",
)
@click.option("--input-shape", required=True, metavar="C,H,W", help="Shape of one image.")
@click.option("--classes", type=int, required=True, help="Number of classes.")
@click.option(
    "--mean", required=True, metavar="M,...", help="Mean of each channel, for pixels in 0..1."
)
@click.option(
    "--std",
    required=True,
    metavar="S,...",
    help="Standard deviation of each channel, for pixels in 0..1.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write."
)
@force_option
@outcome_of
def import_weights(
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
    """Create a checkpoint from the state_dict file of your model.

    WEIGHTS is a .safetensors file, or a file that torch.save wrote. Only tensors are read from it.
    """
    import toolkit
    from toolkit.schema import InputSpec, ModelSpec, to_json

    shape = read_numbers("--input-shape", input_shape, int, count=3)
    spec = InputSpec(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        mean=read_numbers("--mean", mean, float),
        std=read_numbers("--std", std, float),
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
        f"next: toolkit export {out}",
    )
