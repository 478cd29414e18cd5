"""Timing: the only module of the project that reads a clock.

In: a callable. Out: raw times, which `toolkit.statistics` evaluates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from datetime import UTC, datetime
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

DISTINCT_BATCHES = 5  # timed calls rotate through them; a cache of fewer inputs shows up

Input = TypeVar("Input")
Output = TypeVar("Output")


class ClockError(Exception):
    """The clock is wrong, so its readings are not a measurement."""


class Stopwatch:
    """Measures time from its creation."""

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def elapsed_s(self) -> float:
        """Return the seconds since the start; always above 0, so that it can be a divisor."""
        return max(time.perf_counter_ns() - self._start_ns, 1) / 1e9


def time_calls(
    run: Callable[[Input], Output],
    inputs: Sequence[Input],
    *,
    calls: int,
    offset: int = 0,
    kept: int = 0,
) -> tuple[list[int], Output]:
    """Return the wall time in ns of each of `calls` calls, and the output of call `kept` (from 0).

    `run` must return only when its output is in host memory. The inputs are ready and rotate: the
    first call takes `inputs[offset % len(inputs)]`.

    Raises:
        ClockError: The clock went backwards, or did not move at all.
    """
    clock = time.perf_counter_ns
    samples_ns = []
    for call in range(calls):
        batch = inputs[(offset + call) % len(inputs)]
        start_ns = clock()
        output = run(batch)
        samples_ns.append(clock() - start_ns)
        if call == kept:
            kept_output = output
    if min(samples_ns) < 0:
        raise ClockError(f"the clock went backwards by {-min(samples_ns) / 1e9:g} s; measure again")
    if sum(samples_ns) == 0:
        raise ClockError(f"the clock did not move during {calls} calls; use a larger batch size")
    return samples_ns, kept_output


def time_streams(
    runs: Sequence[Callable[[Input], Output]],
    inputs: Sequence[Input],
    pool: Executor,
    *,
    calls: int,
    offset: int = 0,
    kept: int = 0,
) -> list[tuple[list[int], Output]]:
    """Run `time_calls` for all `runs` at the same time, each in a thread of `pool`.

    Before its timed calls, each thread makes one more call on another input; then all start
    together. A thread that has finished continues with untimed calls until all have finished, so
    that every timed call runs next to the others.

    Raises:
        ClockError: As for `time_calls`. Exceptions of a call are raised as well.
    """
    start = Barrier(len(runs))
    done: list[int] = []

    def stream(number: int) -> tuple[list[int], Output]:
        run, first = runs[number], offset + number
        try:
            _or_abort(start, lambda: run(inputs[(first - 1) % len(inputs)]))
            start.wait()
            timed = time_calls(run, inputs, calls=calls, offset=first, kept=kept)
        finally:
            done.append(number)
        while len(done) < len(runs):
            run(inputs[first % len(inputs)])
        return timed

    futures = [pool.submit(stream, number) for number in range(len(runs))]
    wait(futures)
    broken = [error for each in futures if (error := each.exception()) is not None]
    for error in sorted(broken, key=lambda each: isinstance(each, BrokenBarrierError)):
        raise error  # raise the original failure before those of streams that only waited for it
    return [future.result() for future in futures]


def _or_abort(barrier: Barrier, call: Callable[[], object]) -> None:
    """Run the call; if it fails, abort the barrier so that no thread waits forever."""
    try:
        call()
    except BaseException:
        barrier.abort()
        raise


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
