"""Measure the error rates of compare: false regressions and missed losses.

    python benchmarks/compare_aa.py --runs 1000                     # simulated, no clock
    python benchmarks/compare_aa.py --real 20 --exports DIR --out aa.jsonl

Simulated: two runs of the same 13 rows are passed to `toolkit.compare` as results. Passes differ by
some percent, the machine is some percent faster or slower in each run and in each pass, rows may
differ individually between runs, and some rows have few passes. One row may have a loss.

Real: bench measures the candidates of an export folder twice with a short plan, and compare judges
the second run against the first. One line per pair is written to `--out`; an existing file is
continued.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import toolkit
from toolkit.measurement.plan import Plan
from toolkit.schema import (
    CheckpointRecord,
    DatasetRecord,
    Environment,
    Measurement,
    Pass,
    Results,
    Round,
    Settings,
)
from toolkit.statistics.speeds import throughput
from toolkit.timing import Stopwatch

EXPORTS = Path("models/exports/mnist-cnn")
BATCH_SIZE = 100
ROUNDS = 4
FEW_PASSES = (2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class World:
    """The differences between two runs of the same candidates, as standard deviations of
    logarithms.

    `between` is the difference between passes of one row, `within` that between rounds of one pass.
    `machine` is shared by all rows in a run, `phase` by all rows in a pass. `own` is the difference
    of a row between runs without a change. `few` rows have 2 to 4 passes instead of 8. The first
    row loses `loss`.
    """

    rows: int = 13
    between: float = 0.02
    within: float = 0.02
    machine: float = 0.03
    phase: float = 0.02
    own: float = 0.0
    few: int = 0
    loss: float = 0.0


WORLDS = {
    "passes 2 %, machine 3 %": World(),
    "quiet machine": World(machine=0.0, phase=0.0),
    "machine 5 %": World(machine=0.05),
    "passes 5 %": World(between=0.05),
    "five rows of 2 to 4 passes": World(few=5),
    "rows differ individually by 1 %": World(own=0.01),
    "rows differ individually by 2 %": World(own=0.02),
    "4 rows": World(rows=4),
    "1 row": World(rows=1),
    "a row lost 10 %": World(loss=0.1),
    "a row lost 10 %, quiet machine": World(loss=0.1, machine=0.0, phase=0.0),
    "a row lost 10 %, passes 3 %": World(loss=0.1, between=0.03),
    "a row lost 10 %, rows differ by 1 %": World(loss=0.1, own=0.01),
    "a row lost 20 %, rows differ by 2 %": World(loss=0.2, own=0.02),
    "a row of 4 lost 10 %": World(loss=0.1, rows=4),
}


def simulated_pair(world: World, random: np.random.Generator) -> tuple[Results, Results]:
    """Simulate an old and a new run of the same candidates, except for the loss of the first."""
    counts = [8] * (world.rows - world.few)
    counts += [FEW_PASSES[number % len(FEW_PASSES)] for number in range(world.few)]
    levels = random.normal(8, 1, world.rows)
    old, new = (_simulated_run(world, random, counts, levels, loss) for loss in (0.0, world.loss))
    return old, new


def _simulated_run(
    world: World,
    random: np.random.Generator,
    counts: Sequence[int],
    levels: np.ndarray[Any, Any],
    loss: float,
) -> Results:
    machine = random.normal(0, world.machine) + random.normal(0, world.phase, max(counts))
    rows = []
    for number, (count, level) in enumerate(zip(counts, levels, strict=True)):
        logs = level + machine[:count] + random.normal(0, world.own)
        logs = logs + random.normal(0, world.between, count)
        rounds = logs[:, None] + random.normal(0, world.within, (count, ROUNDS))
        slow = random.random((count, ROUNDS)) < 0.05  # one round in 20 is disturbed
        rounds -= slow * random.exponential(0.2, (count, ROUNDS))
        if number == 0:
            rounds += np.log(1 - loss)
        rows.append(_measurement(f"runtime-{number}", np.exp(rounds)))
    return results_of(rows)


def _measurement(runtime: str, speeds: np.ndarray[Any, Any]) -> Measurement:
    """Return a row whose rounds ran at these images/s, `[passes, rounds]`."""
    passes = tuple(
        Pass(
            import_s=0.1,
            load_s=0.1,
            first_inference_s=0.1,
            rounds=tuple(Round(samples_s=((BATCH_SIZE / speed,),)) for speed in of_pass),
        )
        for of_pass in speeds.tolist()
    )
    return Measurement(
        name=f"{runtime} fp32",
        runtime=runtime,
        format="onnx",
        precision="fp32",
        batch_size=BATCH_SIZE,
        settings=Settings(threads=1),
        status="measured",
        reason=None,
        images_per_s=throughput(passes, BATCH_SIZE),
        to_baseline=None,
        repeat_ratio=None,
        limit_share=None,
        latency_s=(),
        outliers=None,
        import_s=None,
        load_s=None,
        first_inference_s=None,
        peak_memory_bytes=None,
        artifact_size_bytes=1,
        artifact_sha256="a" * 64,
        session=None,
        passes=passes,
        stderr_tail="",
    )


def results_of(rows: Sequence[Measurement]) -> Results:
    """Return a run of an unknown machine."""
    return Results(
        schema_version=2,
        environment=Environment(
            time="2026-01-01T00:00:00+00:00",
            platform="simulated",
            machine="simulated",
            cpu="simulated",
            isa=(),
            cores=2,
            memory_bytes=8_000_000_000,
            load_average=None,
            python="3.11",
            versions={},
        ),
        dataset=DatasetRecord(name="none", split="test", images=1, sha256={}),
        checkpoint=CheckpointRecord(
            name="none", path="none", sha256="c" * 64, accuracy=None, training=None
        ),
        measurements=tuple(rows),
    )


def simulate(world: World, *, runs: int, seed: int) -> Counter[str]:
    """Count the outcomes of `runs` pairs: exit codes (`exit 1`); `found`: the first row was called
    a regression; `wrong`: another row was; `each by itself`: Welch's 95 % interval of any row lies
    below 1, which is the rule without correction."""
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(runs):
        old, new = simulated_pair(world, random)
        found = toolkit.compare(old, new)
        counts[f"exit {found.exit_code}"] += 1
        counts["found"] += found.rows[0].regression
        counts["wrong"] += any(row.regression for row in found.rows[1:])
        counts["each by itself"] += any(
            row.ratio is not None and row.ratio.high < 1 for row in found.rows
        )
    return counts


def measured_pair(exports: Path, runtimes: Sequence[str], plan: Plan, folder: Path) -> Any:
    """Run bench twice, with the no-op runtime, and compare."""
    runs = [
        toolkit.bench([exports], runtimes=runtimes, plan=plan, out=folder / name)
        for name in ("old", "new")
    ]
    return toolkit.compare(*runs)


def line_of(found: Any, wall_s: float) -> dict[str, Any]:
    """Return the recorded values of a real pair."""
    return {
        "wall_s": round(wall_s, 1),
        "exit_code": found.exit_code,
        "common": found.common and found.common.value,
        "limit_share": found.limit_share,
        "unfit": found.unfit,
        "rows": [
            {
                "name": row.name,
                "ratio": row.ratio and row.ratio.value,
                "to_others": row.to_others and row.to_others.value,
                "p_value": row.p_value,
                "verdict": row.verdict,
                "each_by_itself": row.ratio is not None and row.ratio.high < 1,
            }
            for row in found.rows
        ],
    }


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Summarise the exit codes of the real pairs, and the result of the rule without correction."""
    codes = Counter(line["exit_code"] for line in lines)
    alone = sum(any(row["each_by_itself"] for row in line["rows"]) for line in lines)
    shifts = ", ".join(f"{line['common']:.3f}" for line in lines if line["common"])
    return (
        f"{len(lines)} pairs: "
        + ", ".join(f"exit {code}: {count}" for code, count in sorted(codes.items()))
        + f"; a row slower by its own 95 % interval: {alone}; all rows, new/old: {shifts}"
    )


@click.command()
@click.option(
    "--runs",
    type=int,
    default=1000,
    show_default=True,
    help=("Number of simulated pairs for each world."),
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--only", help="Simulate only the worlds whose name contains this text.")
@click.option(
    "--real", type=int, default=0, help=("Number of real pairs, instead of simulated ones.")
)
@click.option(
    "--exports", type=click.Path(path_type=Path), default=Path("models/exports/mnist-cnn")
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help=("Runtime to measure; repeatable. Default: all that load the exports."),
)
@click.option("--min-time", type=float, default=1.6, show_default=True)
@click.option("--passes", type=int, default=8, show_default=True)
@click.option("--max-time", type=float, default=600.0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help=("File for the lines of the real pairs.")
)
def main(
    runs: int,
    seed: int,
    only: str | None,
    real: int,
    exports: Path,
    runtimes: tuple[str, ...],
    min_time: float,
    passes: int,
    max_time: float,
    out: Path | None,
) -> None:
    """Count the exit codes of compare over pairs of runs of the same artifacts."""
    if not real:
        for name, world in WORLDS.items():
            if only is None or only in name:
                counts = simulate(world, runs=runs, seed=seed)
                shares = ", ".join(
                    f"{key} {count / runs:.1%}" for key, count in sorted(counts.items())
                )
                print(f"{name}: {shares}", flush=True)
        return
    if out is None:
        raise click.UsageError("--real needs --out FILE for its lines")
    plan = Plan(min_time_s=min_time, min_rounds=16, passes=passes, max_time_s=max_time)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    with out.open("a") as file:
        while len(lines) < real:
            watch = Stopwatch()
            with tempfile.TemporaryDirectory() as folder:
                found = measured_pair(exports, runtimes, plan, Path(folder))
            lines.append(line_of(found, watch.elapsed_s()))
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
            print(len(lines), "exit", lines[-1]["exit_code"], file=sys.stderr)
    print(summary(lines))


if __name__ == "__main__":
    main()
