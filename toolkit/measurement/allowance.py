"""The time that a measurement may take, without the time that failures took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.errors import FailedRun
from toolkit.timing import Stopwatch


class Allowance:
    """Seconds from its creation. Time used by failures is not counted, so that a candidate that
    hangs does not use up the time of the others."""

    def __init__(self, max_time_s: float) -> None:
        self._watch = Stopwatch()
        self._max_time_s = max_time_s
        self._lost_s = 0.0

    def is_over(self) -> bool:
        """Return whether all seconds are used up."""
        return self._watch.elapsed_s() - self._lost_s > self._max_time_s

    @contextmanager
    def not_for_failures(self) -> Iterator[None]:
        """Give back the time of the body if it raises a failure, and raise the failure again."""
        watch = Stopwatch()
        try:
            yield
        except FailedRun:
            self._lost_s += watch.elapsed_s()
            raise
