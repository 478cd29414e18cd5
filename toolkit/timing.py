"""Timing: the only module of the project that reads a clock.

In: a callable. Out: raw times; what follows from them is `toolkit.stats`' work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

DISTINCT_BATCHES = 5  # that timed calls rotate through: a runtime that caches would show

Input = TypeVar("Input")
Output = TypeVar("Output")


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def elapsed_s(self) -> float:
        """Seconds since the start; above 0, so that it may divide."""
        return max(time.perf_counter_ns() - self._start_ns, 1) / 1e9


def time_calls(
    run: Callable[[Input], Output], inputs: Sequence[Input], *, calls: int, offset: int = 0
) -> tuple[list[int], Output]:
    """Wall time in ns of each of `calls` calls, and the last output.

    `run` must return only when its output lies in host memory. The inputs are ready and rotate:
    the first call takes `inputs[offset % len(inputs)]`.
    """
    clock = time.perf_counter_ns
    samples_ns = []
    for call in range(offset, offset + calls):
        batch = inputs[call % len(inputs)]
        start_ns = clock()
        output = run(batch)
        samples_ns.append(clock() - start_ns)
    return samples_ns, output


def now() -> datetime:
    """The time of day, UTC."""
    return datetime.now(UTC)
