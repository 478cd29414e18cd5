"""Options that several commands share; each name means the same in every command."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from toolkit.cli import completion


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combine several options into one decorator. `--help` shows them in the order given."""
    return lambda command: functools.reduce(lambda done, one: one(done), reversed(options), command)


class DeviceChoice(click.Choice[str]):
    """A device; `gpu` and `CUDA` are cuda."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from toolkit.errors import UnknownNameError
        from toolkit.names import known_name

        with contextlib.suppress(UnknownNameError):  # click's own error says what is expected
            value = known_name("device", str(value), list(self.choices))
        return super().convert(value, param, ctx)


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Data set: a folder of pictures, one folder per class, with or without train/ and test/; "
    "IDX files; CIFAR-10 as it comes; a .npz file or .npy files; or a .csv file of paths and "
    "labels. Only training and 'export' read training images. See docs/data.md. Default: the "
    "bundled MNIST.",
)
model_option = click.option(
    "--model",
    metavar="MODULE:FUNCTION",
    help="Factory function of your own model. Naming it here allows its code to run; the current "
    "folder is searched last.",
)
trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Let programs that you have not trusted run in this command. See 'toolkit trust'.",
)
keep_memory_option = click.option(
    "--keep-memory",
    is_flag=True,
    help="Keep freed memory in the process (glibc only). Usually speeds up PyTorch.",
)
threads_option = click.option(
    "--threads", type=int, help="Number of CPU threads. Default: all usable cores."
)
force_option = click.option("--force", is_flag=True, help="Overwrite existing output.")
formats_option = click.option(
    "--format",
    "formats",
    multiple=True,
    shell_complete=completion.formats,
    metavar="NAME",
    help="Format to export, or 'all'; repeatable. Default: torchscript, onnx and pt2.",
)
precisions_option = together(
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        shell_complete=completion.precisions,
        default=["fp32"],
        show_default=True,
        metavar="NAME",
        help="Precision to export: fp32, fp16, int8, int8-dynamic or int8-weights; repeatable. "
        "Applies to the formats that support it.",
    ),
    click.option(
        "--calibration-images",
        type=int,
        default=500,
        show_default=True,
        help="Number of training images used to calibrate int8 ranges.",
    ),
    click.option(
        "--calibration-seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed that selects the calibration images.",
    ),
)
embed_option = click.option(
    "--embed-preprocessing",
    is_flag=True,
    help="Put scaling, colour order and normalisation into the artifacts, which then take uint8 "
    "images after resizing and cropping.",
)
runtimes_option = click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    shell_complete=completion.runtimes,
    metavar="NAME",
    help="Runtime to use, or 'all'; repeatable. Default: the installed runtimes that load the "
    "artifacts, except slow and specialised ones.",
)
batch_size_option = click.option(
    "--batch-size", type=int, default=100, show_default=True, help="Images per call."
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds without an answer after which a worker is killed.",
)
flips_option = click.option(
    "--max-flips",
    type=int,
    help="Maximum number of changed predictions, not counting benign ones. Default: 0 for fp32, no "
    "limit for other precisions.",
)
accuracy_option = click.option(
    "--max-accuracy-drop",
    type=float,
    metavar="SHARE",
    help="Maximum loss of accuracy, as a fraction. Default: no limit for fp32, 0.001 for other "
    "precisions.",
)
gates_options = together(
    flips_option,
    accuracy_option,
    click.option(
        "--max-flip-rate",
        type=float,
        metavar="SHARE",
        help="Maximum share of images whose prediction may change. The upper bound of the rate "
        "must stay below it, which takes enough images. Default: 0.1 for fp32, 0.001 for other "
        "precisions.",
    ),
    click.option(
        "--max-logit-diff",
        type=float,
        metavar="LOGITS",
        help="Maximum distance from the checkpoint's logits, in logit units. Default: 20 noise "
        "floors for fp32, 3 times the expected rounding error for other precisions.",
    ),
    click.option(
        "--confidence",
        type=float,
        default=0.975,
        show_default=True,
        metavar="SHARE",
        help="One-sided confidence level of each bound.",
    ),
    click.option(
        "--allow-undecided",
        is_flag=True,
        help="Exit with code 0 when there are too few images to decide.",
    ),
)
session_options = together(
    runtimes_option,
    batch_size_option,
    threads_option,
    keep_memory_option,
    click.option(
        "--device",
        type=DeviceChoice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Device that runs the sessions.",
    ),
    timeout_option,
    data_option,
    model_option,
    trust_option,
)


out_option = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write results.json, .md and .csv to."
)
quick_option = click.option(
    "--quick",
    is_flag=True,
    help="Take a quick look: 500 test images drawn at random, and short measurements. The results "
    "say so, and what they cannot show stays undecided.",
)


class Share(click.ParamType[float]):
    """A share such as `1%` or `0.01`; may be negative."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{text!r}: expected a share such as 1% or 0.01", param, ctx)


class SweepCommand(click.Command):
    """Reads `--sweep batch-size=1,10 threads=1,2` as two values of `--sweep`."""

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
        help="Minimum measuring time per candidate, in seconds.",
    ),
    click.option(
        "--min-rounds",
        type=int,
        default=32,
        show_default=True,
        help="Minimum number of rounds per candidate. A round lasts 0.1 s or more.",
    ),
    click.option(
        "--target-width",
        type=Share(),
        metavar="1%",
        help="Measure until every interval is within ± this value. By default, stop at the minimum "
        "time and rounds.",
    ),
    click.option(
        "--max-time",
        "max_time_s",
        type=float,
        default=300.0,
        show_default=True,
        help="Maximum total time, in seconds. Measuring stops then, even if a target is not met.",
    ),
)
sweep_option = click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=N,N...",
    help="Measure every combination of the given values, for example batch-size=1,10,100 "
    "threads=1,2 streams=1,2.",
)
streams_option = click.option(
    "--streams", type=int, default=1, show_default=True, help="Calls that run at the same time."
)
scenario_options = together(
    click.option(
        "--scenario",
        type=click.Choice(["offline", "single-stream", "server"]),
        required=True,
        help="How queries arrive. The rules are those of MLPerf.",
    ),
    click.option(
        "--min-time",
        "min_time_s",
        type=float,
        default=10.0,
        show_default=True,
        help="Minimum duration of each run, in seconds. MLPerf submissions need 600.",
    ),
    click.option(
        "--max-time",
        "max_time_s",
        type=float,
        default=300.0,
        show_default=True,
        help="Maximum duration of each run, in seconds.",
    ),
    click.option(
        "--target-qps",
        type=float,
        metavar="N",
        help="Queries per second that --scenario server sends, at random times.",
    ),
    click.option(
        "--latency-bound",
        "latency_bound_ms",
        type=float,
        metavar="MS",
        help="Latency limit for 99 % of the queries of --scenario server, in milliseconds.",
    ),
)
paths_argument = click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR|ARTIFACT]..."
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint that the artifacts were exported from. Default: the one named in their "
    "manifest.",
)


def read_sweep(sweep: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Parse `("batch-size=1,10", "threads=1,2")` into names and values."""
    pairs = [part.partition("=") for text in sweep for part in text.split() or [""]]
    grid: dict[str, tuple[int, ...]] = {}
    for name, _, values in pairs:
        if name in grid:
            raise click.BadParameter(
                f"{name} is given twice; give all values at once, such as {name}=1,2",
                param_hint="--sweep",
            )
        grid[name] = read_numbers(f"--sweep {name}".strip(), values, int)
    return grid


def read_numbers(flag: str, text: str, kind: type, *, count: int | None = None) -> tuple[Any, ...]:
    """Parse numbers such as `"3,32,32"`. If `count` is given, require exactly that many."""
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected numbers separated by commas", param_hint=flag
        ) from error
    if count is not None and len(values) != count:
        raise click.BadParameter(f"{text!r}: expected {count} numbers", param_hint=flag)
    return values
