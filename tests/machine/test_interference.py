"""The load from others is the machine's busy time without our own; one busy process counts as one
core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from conftest import wait_until

from toolkit.machine.environment import describe_environment, usable_cores
from toolkit.machine.fitness import judge
from toolkit.machine.interference import CpuTimes, LoadWatch, interference, read_cpu_times
from toolkit.schema import Interference
from toolkit.timing import Stopwatch

START = CpuTimes(busy_s=100.0, total_s=1000.0, steal_s=5.0, own_s=40.0)


def after(*, busy: float, own: float, steal: float = 0.0, idle: float = 0.0) -> CpuTimes:
    return CpuTimes(
        busy_s=START.busy_s + busy,
        total_s=START.total_s + busy + idle + steal,
        steal_s=5.0 + steal,
        own_s=START.own_s + own,
    )


@pytest.mark.parametrize(
    ("end", "wall_s", "others_cores", "steal_share"),
    [
        (after(busy=0, own=0, idle=4), 2.0, 0.0, 0.0),
        (after(busy=2, own=2, idle=2), 2.0, 0.0, 0.0),
        (after(busy=4, own=2), 2.0, 1.0, 0.0),
        (after(busy=3, own=0.5, idle=1), 2.0, 1.25, 0.0),
        (after(busy=2, own=2.02, idle=2), 2.0, 0.0, 0.0),  # the kernel's ticks are coarse
        (after(busy=2, own=2, idle=1, steal=1), 2.0, 0.0, 0.25),
        (replace(after(busy=2, own=1, idle=2), steal_s=None), 2.0, 0.5, None),
    ],
)
def test_load_of_others_is_computed_from_cpu_times(
    end: CpuTimes, wall_s: float, others_cores: float, steal_share: float | None
) -> None:
    found = interference(START, end, wall_s=wall_s)
    expected = Interference(wall_s=wall_s, others_cores=others_cores, steal_share=steal_share)
    assert found == expected


def test_zero_elapsed_time_has_no_steal() -> None:
    assert interference(START, START, wall_s=1e-9).steal_share is None


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that keeps one core busy and is not a descendant of ours: its parent has ended."""
    loop = f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.check_output(["sh", "-c", loop], text=True))
    try:
        assert pid not in {child.pid for child in psutil.Process().children(recursive=True)}
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)


def test_other_processes_count_and_listed_ones_do_not(
    stranger: int,
) -> None:
    """Two watches over the same time, so that other load cancels out, except for the time between
    their readings, in which this process may be kept waiting."""
    process = psutil.Process(stranger)
    apart = Stopwatch()
    unaware, aware = LoadWatch(), LoadWatch(pids=[stranger])
    before_s = used_s(process)
    apart_s = apart.elapsed_s()
    wait_until(lambda: used_s(process) > before_s + 1.5, "the loop has run")
    apart = Stopwatch()
    seen, known = unaware.interference(), aware.interference()
    stranger_s = used_s(process) - before_s
    apart_s += apart.elapsed_s()
    difference_s = seen.wall_s * seen.others_cores - known.wall_s * known.others_cores
    assert difference_s == pytest.approx(stranger_s, abs=0.3 + usable_cores() * apart_s)
    warnings = judge(describe_environment(), threads=1, interference=seen)
    assert "others" in {warning.code for warning in warnings}


def used_s(process: psutil.Process) -> float:
    """Return the CPU seconds used so far."""
    return float(sum(process.cpu_times()[:2]))


def test_own_work_and_that_of_ended_children_is_not_counted() -> None:
    code = "import os\nwhile sum(os.times()[:2]) < 0.5: pass"
    before, before_s = read_cpu_times(), sum(os.times()[:4])
    subprocess.run([sys.executable, "-c", code], check=True)
    own_s = read_cpu_times().own_s - before.own_s
    assert own_s > 0.45
    assert own_s == pytest.approx(sum(os.times()[:4]) - before_s, abs=0.1)


def test_ended_pids_are_not_an_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert LoadWatch(pids=[gone.pid]).interference().others_cores >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has affinity")
def test_only_the_usable_cpus_count() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from toolkit.machine.interference import read_cpu_times; print(read_cpu_times().total_s)"
    )
    before = read_cpu_times()
    one_s = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    cpus = len(os.sched_getaffinity(0))
    assert 0.95 * before.total_s <= one_s * cpus <= 1.05 * read_cpu_times().total_s
