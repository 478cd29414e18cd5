"""Is a training that is killed at any moment, and resumed, the training that was not killed?

    python benchmarks/kills.py --kills 100

Each time `toolkit train` runs in a process of its own and keeps its state after every step. SIGKILL
ends it at a random moment, also while it starts or writes; `--resume` goes on, and every second one
is killed as well. In the end the weights must have the bytes of a training that nobody touched.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from toolkit.data import load_dataset
from toolkit.timing import Stopwatch

IMAGES = {"train": 600, "test": 250}


def killed_and_resumed(folder: Path, data: Path, *, kills: int, seed: int) -> tuple[str, list[str]]:
    """Checksum of the weights of a training left alone, and of `kills` that were not.

    A kill counts if the process was at work: a training that was done before is tried again.
    """
    watch = Stopwatch()
    wanted = finish(start(folder / "whole", data))
    whole_s = watch.elapsed_s()
    moments = random.Random(seed)
    found = []
    number = 0
    while len(found) < kills:
        number += 1
        out, more = folder / f"killed-{number}", list[str]()
        for _ in range(1 + number % 2):
            process = start(out, data, *more)
            time.sleep(moments.uniform(0, whole_s))
            process.kill()
            process.communicate()
            more = ["--resume"]
        if (out / "checkpoint.json").exists():
            continue
        states = sorted(path.name for path in out.glob("step-*"))
        where = states[-1].split(".")[0] if states else "before the first state"
        found.append(finish(start(out, data, *more)))
        same = "the same" if found[-1] == wanted else found[-1]
        print(f"{len(found)}: killed at {where}: {same}", file=sys.stderr)
    return wanted, found


def start(out: Path, data: Path, *more: str) -> subprocess.Popen[str]:
    """A training in a process of its own."""
    options = ["--data", data, "--out", out, "--epochs", 20, "--threads", 1, "--save-every", 1e-6]
    command = [sys.executable, "-m", "toolkit", "train", "--json", *map(str, options), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for it; the checksum of its weights."""
    stdout, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError(stderr)
    return str(json.loads(stdout)["sha256"])


def write_small_data(folder: Path) -> Path:
    """A few hundred digits, so that starting, training and writing take alike long."""
    for split, count in IMAGES.items():
        dataset = load_dataset("train" if split == "train" else "test")
        for kind, values in (
            ("images-idx3", dataset.images[:count, 0]),
            ("labels-idx1", dataset.labels[:count].astype(np.uint8)),
        ):
            header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return folder


@click.command()
@click.option("--kills", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(kills: int, seed: int) -> None:
    """Kill `kills` trainings, and say how many ended with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        write_small_data(data)
        wanted, found = killed_and_resumed(Path(folder), data, kills=kills, seed=seed)
    same = found.count(wanted)
    print(f"{same} of {kills} trainings that were killed ended with the same weights")
    sys.exit(same != kills)


if __name__ == "__main__":
    main()
