"""`toolkit train`: data → checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import data_option, force_option, threads_option
from toolkit.cli.outcome import Outcome, outcome_of, started_by_torchrun

if TYPE_CHECKING:
    from toolkit.progress import Progress


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
    help="How to train: fast (default), or plain: what the usual script does, to compare with; "
    "plain-workers: the same, its images read by worker processes.",
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
