"""`toolkit train`: data → checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import DeviceChoice, data_option, force_option, threads_option
from toolkit.cli.outcome import Outcome, outcome_of, started_by_torchrun

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("models/trained"),
    show_default=True,
    help="Checkpoint folder to write.",
)
@click.option(
    "--recipe",
    type=click.Choice(["fast", "plain", "plain-workers"]),
    help="Training recipe: fast (default); plain, which trains like a typical script and serves as "
    "a comparison; or plain-workers, which is plain with worker processes that read the images.",
)
@click.option(
    "--epochs",
    type=float,
    help="Passes over the data; may be a fraction. Default: set by the recipe.",
)
@click.option("--batch-size", type=int, help="Images per step. Default: set by the recipe.")
@click.option("--lr", type=float, help="Peak learning rate of Adam. Default: set by the recipe.")
@click.option(
    "--seed",
    type=int,
    help="Random seed. The same seed, machine and number of threads give the same weights. "
    "Default: 1.",
)
@click.option(
    "--augment",
    is_flag=True,
    default=None,
    help="Rotate, shift and zoom the training images slightly.",
)
@click.option(
    "--device",
    type=DeviceChoice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device to train on.",
)
@click.option(
    "--save-every",
    "save_every_s",
    type=float,
    default=10.0,
    show_default=True,
    help="Seconds between saves of the training state, which --resume needs.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Resume the interrupted training in --out with its original options.",
)
@threads_option
@data_option
@force_option
@outcome_of
def train(progress: Progress, **options: Any) -> Outcome:
    """Train the reference CNN and write a checkpoint."""
    import toolkit
    from toolkit.machine.cuda_context import make_context_meanwhile
    from toolkit.schema import to_json

    if options["device"] != "cpu" and not started_by_torchrun():
        make_context_meanwhile()
    checkpoint = toolkit.train(**options, progress=progress)
    accuracy = checkpoint.training.accuracy if checkpoint.training else 0.0
    return Outcome(
        record={"path": str(options["out"]), **to_json(checkpoint)},
        text=f"{options['out']}: test accuracy {accuracy:.2%}, sha256 {checkpoint.sha256[:12]}",
    )
