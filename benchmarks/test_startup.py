"""Start-up time of `toolkit --help` and `toolkit runtimes`.

pytest benchmarks/test_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import pytest

from toolkit.timing import Stopwatch

LIMIT_S = 0.25
LIMIT_IN_PYTHON_STARTS = 8
RUNS = 15


def wall_s(command: list[str]) -> float:
    watch = Stopwatch()
    subprocess.run(command, check=True, capture_output=True)
    return watch.elapsed_s()


@pytest.mark.parametrize("arguments", [["--help"], ["runtimes"]], ids=["help", "runtimes"])
def test_startup_is_quick(arguments: list[str]) -> None:
    """Medians of alternating runs: below 0.25 s, or 8 bare Python starts if that is more."""
    command = [sys.executable, "-m", "toolkit", *arguments]
    bare = [sys.executable, "-c", "pass"]
    once: Callable[[list[str]], float] = wall_s
    pairs = [(once(command), once(bare)) for _ in range(RUNS)]
    command_s = statistics.median(pair[0] for pair in pairs)
    bare_s = statistics.median(pair[1] for pair in pairs)
    print(f"{' '.join(arguments)}: {command_s:.3f} s; python -c pass: {bare_s:.3f} s")
    assert command_s < max(LIMIT_S, LIMIT_IN_PYTHON_STARTS * bare_s)
