"""Check that a training killed at any moment and resumed equals an uninterrupted one.

    python benchmarks/kills.py --kills 100

SIGKILL ends `toolkit train` at a random moment, also while it starts or writes its state.
`--resume` continues, and every second time it is killed as well. At the end, the weights must have
the bytes of an uninterrupted training.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.data import Split, load_dataset

IMAGES: dict[Split, int] = {"train": 1600, "test": 400}
STEPS = 24  # steps of the training that `main` kills


def killed_and_resumed(
    folder: Path, options: Sequence[str], *, kills: int, seed: int, in_steps: bool = False
) -> tuple[str, list[str]]:
    """Return the checksum of the weights of an uninterrupted training with these options, and of
    `kills` killed ones.

    A kill counts if the process was working: a training that was already finished is tried again.
    With `in_steps`, none is killed before its first state: on a GPU, the start takes nearly all of
    the time.
    """
    before_s = _children_s()
    wanted = finish(start(folder / "whole", options))
    whole_s = _children_s() - before_s
    moments = random.Random(seed)
    found: list[str] = []
    number = 0
    while len(found) < kills:
        number += 1
        out = folder / f"killed-{number}"
        more: list[str] = []
        for _ in range(1 + number % 2):
            process = start(out, [*options, *more])
            if in_steps:
                _wait_for_step(process, out, moments.randint(1, STEPS - 1))
            else:
                _wait_for_work(process, moments.uniform(0, whole_s))
            process.kill()
            process.communicate()
            more = ["--resume"]
        if (out / "checkpoint.json").exists():
            continue
        states = sorted(path.name for path in out.glob("step-*"))
        where = states[-1].split(".")[0] if states else "before the first state"
        found.append(finish(start(out, [*options, *more])))
        same = "the same" if found[-1] == wanted else found[-1]
        print(f"{len(found)}: killed at {where}: {same}", file=sys.stderr)
    return wanted, found


def start(out: Path, options: Sequence[str]) -> subprocess.Popen[str]:
    """Start a training in its own process, which saves its state after every step."""
    command = [sys.executable, "-m", "toolkit", "train", "--json", "--threads", "1"]
    command += ["--save-every", "0.000001", "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for it, and return the checksum of its weights."""
    stdout, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError(stderr)
    return str(json.loads(stdout)["sha256"])


def _children_s() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    return sum(os.times()[2:4])


def _wait_for_work(process: subprocess.Popen[str], cpu_s: float) -> None:
    """Wait until it has used this many CPU seconds, or has ended. Even on a busy machine, this is
    the same moment of its work."""
    watched = psutil.Process(process.pid)
    while process.poll() is None and sum(watched.cpu_times()[:2]) < cpu_s:
        time.sleep(0.005)


def _wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait until it has written the state of that step or of a later one, or has ended."""
    while process.poll() is None:
        steps = [int(path.name.split(".")[0].split("-")[1]) for path in out.glob("step-*")]
        if max(steps, default=0) >= step:
            return
        time.sleep(0.001)


def first_images(folder: Path) -> Path:
    """Write the first `IMAGES` of MNIST as IDX files to `folder`."""
    folder.mkdir()
    for split, count in IMAGES.items():
        dataset = load_dataset(split)
        _write_idx(folder / f"{split}-images-idx3-ubyte", dataset.images[:count, 0])
        _write_idx(folder / f"{split}-labels-idx1-ubyte", dataset.labels[:count])
    return folder


def _write_idx(path: Path, values: NDArray[np.generic]) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@click.command()
@click.option("--kills", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--in-steps", is_flag=True, help="Kill no training before its first state is written."
)
def main(kills: int, seed: int, device: str, in_steps: bool) -> None:
    """Kill `kills` trainings, and report how many ended with the same weights."""
    # 24 steps, the last eight on the hardest images: starting, training and writing take about
    # equally long.
    with tempfile.TemporaryDirectory() as folder:
        data = str(first_images(Path(folder) / "data"))
        options = ("--data", data, "--epochs", "1.5", "--device", device)
        wanted, found = killed_and_resumed(
            Path(folder), options, kills=kills, seed=seed, in_steps=in_steps
        )
    same = found.count(wanted)
    print(f"{same} of {kills} killed trainings ended with the same weights")
    sys.exit(same != kills)


if __name__ == "__main__":
    main()
