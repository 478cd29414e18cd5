"""The overhead of the harness: a null call, and the driver while a worker is timed.

pytest benchmarks/test_overhead.py -s
"""

from __future__ import annotations

import psutil
import pytest

from toolkit.data import load_dataset
from toolkit.measurement.bench import bench, with_no_op
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.report.progress import bars
from toolkit.schema import Settings
from toolkit.sessions.candidates import Subject, find_candidates
from toolkit.timing import Stopwatch

BATCH_SIZE = 100
NULL_LIMIT_S = 1e-4
DRIVER_LIMIT = 0.01


def test_null_call_has_negligible_overhead(subject: Subject) -> None:
    """The no-op runtime's batch-100 call takes less than 0.1 ms, and less than 1 % of the fastest
    real runtime."""
    folder = subject.artifacts[0].path.parent
    plan = Plan(min_time_s=1, min_rounds=10, passes=2)
    results = bench([folder], checkpoint=subject.folder, runtimes=["onnxruntime"], plan=plan)
    times = {row.runtime: row.latency_s[0].value for row in results.measurements}
    null_s, real_s = times["no-op"], times["onnxruntime"]
    assert null_s is not None
    assert real_s is not None
    print(f"no-op {null_s * 1e6:.2f} µs, onnxruntime {real_s * 1e3:.2f} ms: {null_s / real_s:.4%}")
    assert null_s < NULL_LIMIT_S
    assert null_s < 0.01 * real_s


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "bars"])
def test_the_driver_is_idle_while_a_worker_is_timed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """CPU time of this process divided by wall time, while rounds are timed in the workers."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    settings = Settings(threads=1)
    candidates = with_no_op(find_candidates(subject, ["onnxruntime"], settings), subject, settings)
    tallies = [Tally(candidate=each, batch_size=BATCH_SIZE) for each in candidates]
    driver = psutil.Process()
    marks: list[tuple[float, float]] = []
    watch = Stopwatch()
    with bars() as show:

        def progress(label: str, done: int, total: int, note: str = "", /) -> None:
            show(label, done, total, note)
            if label == "rounds":
                times = driver.cpu_times()
                marks.append((watch.elapsed_s(), times.user + times.system))

        plan = Plan(min_time_s=10, min_rounds=20, passes=1, round_s=0.5)
        images = load_dataset("test").images[: 5 * BATCH_SIZE]
        Passes(tallies=tallies, images=images, plan=plan, timeout_s=60, progress=progress).run()
    first, last = marks[0], marks[19]  # in the first pass: no worker starts in between
    share = (last[1] - first[1]) / (last[0] - first[0])
    print(f"driver: {share:.2%} of one core over {last[0] - first[0]:.1f} s")
    assert share < DRIVER_LIMIT
