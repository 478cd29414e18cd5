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
keep_memory_option = click.option(
    "--keep-memory",
    is_flag=True,
    help="Memory that a runtime frees stays with its process; torch is faster so.",
)
threads_option = click.option("--threads", type=int, help="CPU threads; default: all usable cores.")
force_option = click.option("--force", is_flag=True, help="Replace what is already there.")
formats_option = click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help="Format to write, or all; default: torchscript, onnx and pt2.",
)
precisions_option = together(
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        default=["fp32"],
        show_default=True,
        metavar="NAME",
        help="fp32, fp16, int8, int8-dynamic or int8-weights, for formats that have it.",
    ),
    click.option(
        "--calibration-images",
        type=int,
        default=500,
        show_default=True,
        help="Training images that int8 ranges are measured on.",
    ),
    click.option(
        "--calibration-seed",
        type=int,
        default=0,
        show_default=True,
        help="Which of the training images they are.",
    ),
)
runtimes_option = click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="Runtime to use, or all; default: those that load the artifacts and do not take long.",
)
batch_size_option = click.option(
    "--batch-size", type=int, default=100, show_default=True, help="Images a call."
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds after which a silent worker is killed.",
)
flips_option = click.option(
    "--max-flips",
    type=int,
    help="Images that may be decided differently; default: 0 for fp32, else no limit.",
)
accuracy_option = click.option(
    "--max-accuracy-drop",
    type=float,
    metavar="SHARE",
    help="Accuracy that may be lost, as a fraction; default: no limit for fp32, else 0.001.",
)
gates_options = together(
    flips_option,
    accuracy_option,
    click.option(
        "--max-flip-rate",
        type=float,
        metavar="SHARE",
        help="Share of images that may be decided differently. The bound of the rate must stay "
        "below it, so it needs images enough; default: 0.001, for fp32 0.1.",
    ),
    click.option(
        "--max-logit-diff",
        type=float,
        metavar="LOGITS",
        help="Distance from the checkpoint's logits that is allowed, in logit units; default: 20 "
        "noise floors for fp32, else 3 times the error that the rounding should give.",
    ),
    click.option(
        "--confidence",
        type=float,
        default=0.975,
        show_default=True,
        metavar="SHARE",
        help="Confidence of each bound, one-sided.",
    ),
    click.option(
        "--allow-undecided",
        is_flag=True,
        help="Exit with 0 where there are too few images to decide.",
    ),
)
session_options = together(
    runtimes_option,
    batch_size_option,
    threads_option,
    keep_memory_option,
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where sessions run.",
    ),
    timeout_option,
    data_option,
    model_option,
)


class Share(click.ParamType[float]):
    """A share as `1%` or `0.01`, also below zero."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{text!r}: expected a share, as 1% or 0.01", param, ctx)


class SweepCommand(click.Command):
    """Takes `--sweep batch-size=1,10 threads=1,2` as two values of that option, as it reads."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        sweeping = False
        for arg in args:
            sweeping = sweeping and "=" in arg and not arg.startswith("-")
            if sweeping and spread[-1] != "--sweep":
                spread.append("--sweep")
            spread.append(arg)
            sweeping = sweeping or arg == "--sweep"
        return super().parse_args(ctx, spread)


plan_options = together(
    click.option(
        "--min-time",
        "min_time_s",
        type=float,
        default=3.0,
        show_default=True,
        help="Seconds that each candidate is timed at least.",
    ),
    click.option(
        "--min-rounds",
        type=int,
        default=32,
        show_default=True,
        help="Rounds of 0.1 s or more that each candidate has at least.",
    ),
    click.option(
        "--target-width",
        type=Share(),
        metavar="1%",
        help="Measure until each interval is at most ± this wide.  [default: stop at the minimum]",
    ),
    click.option(
        "--max-time",
        "max_time_s",
        type=float,
        default=300.0,
        show_default=True,
        help="Seconds after which measuring ends, whatever is missing.",
    ),
)
sweep_option = click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=N,N...",
    help="Go through batch-size=1,10,100 threads=1,2 streams=1,2, each with each.",
)
streams_option = click.option(
    "--streams", type=int, default=1, show_default=True, help="Calls that run at the same time."
)
scenario_options = together(
    click.option(
        "--scenario",
        type=click.Choice(["offline", "single-stream", "server"]),
        required=True,
        help="How queries arrive, by the rules of MLPerf.",
    ),
    click.option(
        "--min-time",
        "min_time_s",
        type=float,
        default=10.0,
        show_default=True,
        help="Least duration of each run, in seconds; submissions to MLPerf take 600.",
    ),
    click.option(
        "--max-time",
        "max_time_s",
        type=float,
        default=300.0,
        show_default=True,
        help="Greatest duration of each run, in seconds.",
    ),
    click.option(
        "--target-qps",
        type=float,
        metavar="N",
        help="Queries a second that --scenario server sends, at random times.",
    ),
    click.option(
        "--latency-bound",
        "latency_bound_ms",
        type=float,
        metavar="MS",
        help="Milliseconds that 99 % of the queries of --scenario server must keep.",
    ),
)
paths_argument = click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR|ARTIFACT]..."
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint of the artifacts; default: the one that their manifest names.",
)


def read_sweep(sweep: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`("batch-size=1,10", "threads=1,2")` as names and values."""
    pairs = [part.partition("=") for text in sweep for part in text.split() or [""]]
    grid: dict[str, tuple[int, ...]] = {}
    for name, _, values in pairs:
        if name in grid:
            raise click.BadParameter(
                f"{name} is given twice, expected once, as {name}=1,2", param_hint="--sweep"
            )
        grid[name] = read_numbers(f"--sweep {name}".strip(), values, int)
    return grid


def read_numbers(flag: str, text: str, kind: type, *, count: int | None = None) -> tuple[Any, ...]:
    """`"3,32,32"` as numbers; `count` of them, where it is given."""
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected numbers with commas", param_hint=flag
        ) from error
    if count is not None and len(values) != count:
        raise click.BadParameter(f"{text!r}: expected {count} numbers", param_hint=flag)
    return values
