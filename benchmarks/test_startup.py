"""Start-up time of `toolkit --help` and `toolkit runtimes`.

pytest benchmarks/test_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

from toolkit.timing import Stopwatch

LIMITS_IN_PYTHON_STARTS = {"--help": 10, "runtimes": 18}
BARE = "python -c pass"
RUNS = 20


def wall_s(command: list[str]) -> float:
    watch = Stopwatch()
    subprocess.run(command, check=True, capture_output=True)
    return watch.elapsed_s()


@pytest.fixture(scope="module")
def medians_s() -> dict[str, float]:
    """Return median wall times of the commands and of `python -c pass`, from alternating runs."""
    commands = {name: ["-m", "toolkit", name] for name in LIMITS_IN_PYTHON_STARTS}
    commands[BARE] = ["-c", "pass"]
    times_s: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            times_s[name].append(wall_s([sys.executable, *arguments]))
    return {name: statistics.median(each) for name, each in times_s.items()}


@pytest.mark.parametrize("name", LIMITS_IN_PYTHON_STARTS)
def test_startup_is_quick(name: str, medians_s: dict[str, float]) -> None:
    """The time of a command is limited to a multiple of a bare Python start."""
    ratio = medians_s[name] / medians_s[BARE]
    print(f"{name}: {medians_s[name]:.3f} s, {ratio:.1f} x {BARE} ({medians_s[BARE]:.3f} s)")
    assert ratio <= LIMITS_IN_PYTHON_STARTS[name]
