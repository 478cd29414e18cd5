"""Options that several commands share: one name, one meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, shown in the order given."""
    return lambda command: functools.reduce(lambda done, one: one(done), reversed(options), command)


data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of IDX files; default: bundled MNIST."
)
model_option = click.option(
    "--model",
    metavar="MODULE:FUNCTION",
    help="Trust this factory of your own model; it is imported from the current folder too.",
)
threads_option = click.option("--threads", type=int, help="CPU threads; default: all usable cores.")
force_option = click.option("--force", is_flag=True, help="Replace what is already there.")
formats_option = click.option(
    "--format", "formats", multiple=True, metavar="NAME", help="Format to write; default: all."
)
session_options = together(
    click.option(
        "--runtime",
        "runtimes",
        multiple=True,
        metavar="NAME",
        help="Runtime to use; default: all that load the artifacts.",
    ),
    click.option("--batch-size", type=int, default=100, show_default=True, help="Images a call."),
    threads_option,
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where sessions run.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=float,
        default=300.0,
        show_default=True,
        help="Seconds after which a silent worker is killed.",
    ),
    data_option,
    model_option,
)
paths_argument = click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR|ARTIFACT]..."
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint of the artifacts; default: the one that their manifest names.",
)
