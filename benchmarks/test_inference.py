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


def _candidate(subject: Subject, pair: tuple[str, str], threads: int) -> Candidate:
    found = line_up(subject, [pair[0]], Settings(threads=threads))
    return next(each for each in found if each.source.artifact.format == pair[1])
