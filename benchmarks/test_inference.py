"""Batch-100 inference of every runtime, as pytest-benchmark shows it.

    pytest benchmarks/test_inference.py
    pytest benchmarks/test_inference.py --benchmark-autosave
    pytest benchmarks/test_inference.py --benchmark-compare

The sessions, inputs and times are those of `toolkit bench`: one worker a runtime, times taken
inside it. Here the runtimes run one after the other; `toolkit bench` interleaves them, so compare
runtimes there and one runtime with its past here.
"""

from __future__ import annotations

import pytest
from conftest import WORKER_CLOCK, WorkerClock
from pytest_benchmark.fixture import BenchmarkFixture

from toolkit.benchmark import bench
from toolkit.candidates import Candidate, Subject, line_up
from toolkit.data import load_dataset
from toolkit.environment import usable_cores
from toolkit.runtimes import RUNTIMES
from toolkit.schema import Settings
from toolkit.targets import RemoteSession

BATCH_SIZE = 100
ROUNDS = 60
WARMUP_ROUNDS = 10
PAIRS = [(row.name, name) for row in RUNTIMES.values() for name in row.formats]


@pytest.mark.benchmark(group="batch-100 inference", timer=WORKER_CLOCK)
@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_inference(
    benchmark: BenchmarkFixture,
    worker_clock: WorkerClock,
    subject: Subject,
    pair: tuple[str, str],
    threads: int,
) -> None:
    """One call on 100 images; the inputs rotate."""
    candidate = _candidate(subject, pair, threads)
    with RemoteSession(candidate, batch_size=BATCH_SIZE, timeout_s=300) as session:
        session.prepare(load_dataset("test").images[: 5 * BATCH_SIZE], batch_size=BATCH_SIZE)
        benchmark.pedantic(
            worker_clock.timed_call(session), rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS
        )
        benchmark.extra_info["images_per_s"] = BATCH_SIZE / benchmark.stats.stats.median
        benchmark.extra_info["artifact_sha256"] = candidate.source.artifact.sha256


def test_harness_costs_less_than_one_percent(subject: Subject) -> None:
    """The null runtime's batch-100 time against the fastest real one, in one interleaved run."""
    folder = subject.artifacts[0].path.parent
    results = bench([folder], checkpoint=subject.folder, rounds=10)
    times = {row.runtime: row.latency_median_s for row in results.measurements}
    null_s = times.pop("null")
    fastest_s = min(time_s for time_s in times.values() if time_s is not None)
    print(f"null {null_s * 1e6:.2f} µs, fastest real {fastest_s * 1e3:.2f} ms")
    assert null_s < 0.01 * fastest_s


def _candidate(subject: Subject, pair: tuple[str, str], threads: int) -> Candidate:
    found = line_up(subject, [pair[0]], Settings(threads=threads))
    return next(each for each in found if each.source.artifact.format == pair[1])
