"""Batch-100 inference of every runtime, shown by pytest-benchmark.

    pytest benchmarks/test_inference.py
    pytest benchmarks/test_inference.py --benchmark-autosave
    pytest benchmarks/test_inference.py --benchmark-compare

Runtimes that are not installed, or do not run on this machine's CPU, are skipped.

The sessions, inputs and times are those of `toolkit bench`: one worker per runtime, times taken
inside it. Here the runtimes run one after another; `toolkit bench` interleaves them. So compare
runtimes there, and one runtime with its past here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.common import CHECKPOINT, WORKER_CLOCK, WorkerClock
from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.data import load_dataset
from toolkit.machine.environment import usable_cores
from toolkit.schema import Settings
from toolkit.sessions.candidates import Candidate, Subject, find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import RUNTIMES

BATCH_SIZE = 100
ROUNDS = 60
WARMUP_ROUNDS = 10
PAIRS = [(row.name, name) for row in RUNTIMES.values() for name in row.formats]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """Return a format's fp32 artifact, exported on first use."""

    @functools.cache
    def make(format_name: str) -> Subject:
        folder = tmp_path_factory.mktemp(f"exported-{format_name}")
        done = export(CHECKPOINT, out=folder, formats=[format_name])
        assert not done.failures, done.failures[0].failure.stderr_tail
        return find_subject([folder], checkpoint=CHECKPOINT, model=None)

    return make


@pytest.mark.benchmark(group="batch-100 inference", timer=WORKER_CLOCK)
@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_inference(
    benchmark: BenchmarkFixture,
    worker_clock: WorkerClock,
    exported: Callable[[str], Subject],
    pair: tuple[str, str],
    threads: int,
) -> None:
    """Time calls on 100 images with rotating inputs."""
    candidate = _candidate(exported, pair, threads)
    with RemoteSession(candidate, batch_size=BATCH_SIZE, timeout_s=300) as session:
        session.prepare(load_dataset("test").images[: 5 * BATCH_SIZE], batch_size=BATCH_SIZE)
        benchmark.pedantic(
            worker_clock.timed_call(session), rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS
        )
        assert benchmark.stats is not None
        benchmark.extra_info["images_per_s"] = BATCH_SIZE / benchmark.stats.stats.median
        benchmark.extra_info["artifact_sha256"] = candidate.source.artifact.sha256


def _candidate(
    exported: Callable[[str], Subject], pair: tuple[str, str], threads: int
) -> Candidate:
    row, found_format = RUNTIMES[pair[0]], FORMATS.get(pair[1])
    if not row.runs_on("cpu"):
        pytest.skip(f"{row.name} does not run on this machine's CPU")
    if row.version() is None or (found_format and found_format.missing()):
        pytest.skip(f"not installed: {row.install}")
    subject = exported("torchscript" if found_format is None else pair[1])
    found = find_candidates(subject, [row.name], Settings(threads=threads))
    return next(each for each in found if each.source.artifact.format == pair[1])
