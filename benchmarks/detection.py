"""Measure how often bench finds a planted slowdown, and how often it reports one that is not there.

    python benchmarks/detection.py --slower 0 --slower 0.03 --runs 100 --out found.jsonl

Each run compares the ONNX export of the reference checkpoint with the same file in a runtime that
is slower by a known share (0: the same), and checks whether the 95 % interval of the ratio excludes
1. One line per run is written to `--out`; an existing file is continued.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from toolkit.artifacts.export import export
from toolkit.cli.options import Share
from toolkit.data import load_dataset
from toolkit.machine.environment import describe_environment
from toolkit.machine.fitness import judge
from toolkit.machine.interference import combined
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.schema import Settings
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.runtimes import Runtime
from toolkit.statistics.speeds import speed_ratio, speeds_of
from toolkit.timing import DISTINCT_BATCHES, Stopwatch

CHECKPOINT = Path(__file__).parent.parent / "models" / "mnist-cnn"
BATCH_SIZE = 100
PLANTED = Runtime(
    name="planted",
    module="planted",
    package="onnxruntime",
    distributions=("onnxruntime",),
    formats=("onnx",),
    install="pip install onnxruntime",
)


def one_run(
    candidates: Sequence[Candidate], plan: Plan, *, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the ratio of each candidate except the first to the first, and the codes of the
    warnings."""
    images = load_dataset("test").images[: BATCH_SIZE * DISTINCT_BATCHES]
    tallies = [Tally(candidate=each, batch_size=BATCH_SIZE) for each in candidates]
    passes = Passes(tallies=tallies, images=images, plan=plan, timeout_s=60, seed=seed)
    facts = describe_environment()
    passes.run()
    ratios = []
    for tally in tallies[1:]:
        ratio = speed_ratio(tally.passes, tallies[0].passes)
        assert ratio is not None, tally.failure
        sides = [speeds_of(each.passes, 1) for each in (tally, tallies[0])]
        by_pass = [
            round(statistics.median(new / old for new, old in zip(*rounds, strict=False)), 5)
            for rounds in zip(*sides, strict=True)
            if all(rounds)  # --max-time may end a pass before its first round
        ]
        ratios.append({**asdict(ratio), "by_pass": by_pass})
    threads = candidates[0].settings.threads
    warnings = judge(facts, threads=threads, interference=combined(passes.interference))
    return ratios, [each.code for each in warnings]


@contextmanager
def load_of_others(processes: int) -> Iterator[None]:
    """Start processes that each keep a core busy; like those of other users, they are not children
    of this process."""
    command = f"{sys.executable} -c 'while True: sum(range(10000))' >/dev/null 2>&1 & echo $!"
    pids = [
        int(subprocess.run(command, shell=True, check=True, capture_output=True).stdout)
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Summarise the findings for each planted slowdown."""
    text = [f"{len(lines)} runs, median {statistics.median(x['wall_s'] for x in lines):.1f} s"]
    for number, slower in enumerate(lines[0]["settings"]["slower"][1:]):
        ratios = [line["ratios"][number] for line in lines]
        slow = sum(each["high"] < 1 for each in ratios)
        fast = sum(each["low"] > 1 for each in ratios)
        widths = [(each["high"] - each["low"]) / 2 for each in ratios]
        text.append(
            f"planted {slower:.0%}: called slower {slow}, faster {fast}, too close "
            f"{len(ratios) - slow - fast}; median ratio "
            f"{statistics.median(each['value'] for each in ratios):.4f}, median interval "
            f"± {statistics.median(widths):.2%}"
        )
    warned = sum(bool(line["warnings"]) for line in lines)
    return "\n".join([*text, f"runs with a warning about the machine: {warned}"])


@click.command()
@click.option(
    "--slower",
    type=Share(),
    multiple=True,
    required=True,
    help=("Planted slowdown, such as 3%; repeatable."),
)
@click.option("--runs", type=int, default=100, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--min-rounds", type=int, default=32, show_default=True)
@click.option("--passes", type=int, default=8, show_default=True)
@click.option("--target-width", type=Share())
@click.option("--max-time", type=float, default=60.0, show_default=True)
@click.option(
    "--busy",
    type=int,
    default=0,
    show_default=True,
    help=("Number of processes that disturb the measurement."),
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    slower: tuple[float, ...],
    runs: int,
    threads: int,
    min_rounds: int,
    passes: int,
    target_width: float | None,
    max_time: float,
    busy: int,
    out: Path,
) -> None:
    """Measure `runs` times, and report how often a difference was found."""
    plan = Plan(
        min_time_s=0.1 * min_rounds,
        min_rounds=min_rounds,
        passes=passes,
        target_width=target_width,
        max_time_s=max_time,
    )
    with tempfile.TemporaryDirectory() as folder:
        export(CHECKPOINT, out=Path(folder), formats=["onnx"])
        subject = find_subject([Path(folder)], checkpoint=CHECKPOINT, model=None)
        (plain,) = find_candidates(subject, ["onnxruntime"], Settings(threads=threads))
        candidates = [
            replace(plain, runtime=PLANTED, source=replace(plain.source, model=str(share)))
            for share in (0.0, *slower)
        ]
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        settings = {
            **{"slower": [0.0, *slower], "threads": threads, "min_rounds": min_rounds},
            **{
                "passes": passes,
                "target_width": target_width,
                "max_time_s": max_time,
                "busy": busy,
            },
        }
        if any(line["settings"] != settings for line in lines):
            raise click.UsageError(f"{out} contains runs with other settings; choose another --out")
        with load_of_others(busy), out.open("a") as file:
            for number in range(len(lines), runs):
                watch = Stopwatch()
                ratios, warnings = one_run(candidates, plan, seed=number)
                lines.append(
                    {
                        "settings": settings,
                        "wall_s": round(watch.elapsed_s(), 2),
                        "ratios": ratios,
                        "warnings": warnings,
                    }
                )
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                print(number + 1, [round(each["value"], 4) for each in ratios], file=sys.stderr)
    print(summary(lines))


if __name__ == "__main__":
    main()
