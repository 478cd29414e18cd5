"""Measure training time and accuracy of recipes, over several seeds.

    python benchmarks/training.py --run plain --run fast:1 --run fast --seeds 5 --out training.jsonl

Each training is `toolkit train` in its own process. The runs alternate, seed after seed, so that
disturbances affect all of them equally. `fast:1.5` is the fast recipe with `--epochs 1.5`,
`fast:10+augment` adds `--augment`. `plain-workers` is the plain recipe with worker processes and
pinned memory: use it for comparisons on a GPU. One line per training is written to `--out`; an
existing file is continued.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.machine.capacity import measure_capacity
from toolkit.machine.environment import usable_cores
from toolkit.timing import Stopwatch

TARGETS = (0.989, 0.99)


@dataclass(frozen=True)
class Run:
    """A recipe with options, written as `fast:1.5+augment`."""

    text: str

    @property
    def arguments(self) -> list[str]:
        """Return the arguments for `toolkit train`."""
        text, _, augment = self.text.partition("+")
        recipe, _, epochs = text.partition(":")
        more = ["--epochs", epochs] if epochs else []
        return ["--recipe", recipe, *more, *([f"--{augment}"] if augment else [])]


def train(run: Run, *, seed: int, device: str, out: Path) -> dict[str, Any]:
    """Run one training; return its time and result."""
    options = ["--seed", str(seed), "--device", device, "--out", str(out), "--json"]
    command = [sys.executable, "-m", "toolkit", "train", *run.arguments, *options]
    watch = Stopwatch()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    record = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)}: {record}")
    training = record["training"]
    return {
        "run": run.text,
        "seed": seed,
        "device": training["options"]["device"],
        "process_s": round(watch.elapsed_s(), 2),
        "training_s": round(training["wall_s"], 3),
        "accuracy": training["accuracy"],
        "images_per_s": [round(epoch["images_per_s"]) for epoch in training["epochs"]],
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def flops_per_image() -> int:
    """Return the FLOPs of a training step, forward and backward, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        ReferenceCNN()(torch.zeros(1, 1, 28, 28)).sum().backward()
    return int(counter.get_total_flops())


def summary(lines: Sequence[dict[str, Any]], float32_flops_per_s: float | None) -> str:
    """Return a row for each run, and which of them reach the targets."""
    text = []
    by_run = {name: [line for line in lines if line["run"] == name] for name in
              dict.fromkeys(line["run"] for line in lines)}  # fmt: skip
    plain_s = {
        name: {line["seed"]: line["training_s"] for line in by_run[name]}
        for name in ("plain", "plain-workers")
        if name in by_run
    }
    for name, own in by_run.items():
        accuracies = [line["accuracy"] for line in own]
        spread = statistics.stdev(accuracies) if len(own) > 1 else 0.0
        speed = statistics.median(line["images_per_s"][-1] for line in own)
        shares = {
            plain: statistics.median(line["training_s"] / times_s[line["seed"]] for line in own
                                     if line["seed"] in times_s)
            for plain, times_s in plain_s.items()
            if any(line["seed"] in times_s for line in own)
        }  # fmt: skip
        text.append(
            f"{name}: accuracy {statistics.mean(accuracies):.3%} ± {spread:.3%} ({len(own)} seeds, "
            f"{min(accuracies):.2%} to {max(accuracies):.2%}); "
            f"{statistics.median(line['training_s'] for line in own):.1f} s, "
            f"{max(line['peak_memory_bytes'] for line in own) / 1e9:.2f} GB at most, "
            f"{speed:,.0f} images/s"
            + (f" = {speed * flops_per_image() / float32_flops_per_s:.0%} of the float32 limit"
               if float32_flops_per_s else "")
            + "".join(f"; 1/{1 / share:.2f} of {plain}'s time" for plain, share in shares.items())
        )  # fmt: skip
    for target in TARGETS:
        reached = [
            (statistics.median(line["training_s"] for line in own), name)
            for name, own in by_run.items()
            if statistics.mean(line["accuracy"] for line in own) >= target
        ]
        text.append(
            f"{target:.1%} on average: "
            + ("in {:.1f} s by {}".format(*min(reached)) if reached else "by none")
        )
    return "\n".join(text)


@click.command()
@click.option(
    "--run",
    "names",
    multiple=True,
    required=True,
    help="Run to measure: plain, plain-workers, fast, fast:1.5 ...; repeatable.",
)
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(names: tuple[str, ...], seeds: int, device: str, out: Path) -> None:
    """Train each run with each seed, and report time and accuracy."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["run"], line["seed"]) for line in lines}
    limits = measure_capacity(usable_cores()).limits if device == "cpu" else None
    with out.open("a") as file, tempfile.TemporaryDirectory() as folder:
        for seed in range(1, seeds + 1):
            for turn in range(len(names)):
                run = Run(names[(turn + seed) % len(names)])  # the first run changes
                if (run.text, seed) in done:
                    continue
                place = Path(folder) / f"{run.text}-{seed}"
                lines.append(train(run, seed=seed, device=device, out=place))
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                print(lines[-1], file=sys.stderr)
    print(summary(lines, limits.float32_flops_per_s if limits else None))


if __name__ == "__main__":
    main()
