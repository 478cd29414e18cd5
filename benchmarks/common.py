"""Shared parts of the benchmarks: the reference checkpoint's folder, and the workers' clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.sessions.remote import RemoteSession

CHECKPOINT = Path(__file__).parent.parent / "models" / "mnist-cnn"


class WorkerClock:
    """A timer for pytest-benchmark that shows the seconds spent in timed calls inside a worker.

    The table therefore contains the worker's measurements, without the transfer to the worker and
    back.
    """

    def __init__(self) -> None:
        self._elapsed_s = 0.0

    def __call__(self) -> float:
        return self._elapsed_s

    def timed_call(self, session: RemoteSession) -> Callable[[], None]:
        """Make one timed call of the session, which advances this clock."""

        def call() -> None:
            self._elapsed_s += session.measure(calls=1).samples_s[0][0]

        return call


WORKER_CLOCK = WorkerClock()
