"""Shared fixtures of the benchmarks: exports of the reference checkpoint, and the workers' own
clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolkit.artifacts.export import export
from toolkit.sessions.candidates import Subject, find_subject
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


@pytest.fixture(scope="session")
def worker_clock() -> WorkerClock:
    """The clock that `@pytest.mark.benchmark(timer=WORKER_CLOCK)` reads."""
    return WORKER_CLOCK


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep references in a folder of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats of the reference checkpoint."""
    folder = tmp_path_factory.mktemp("exports")
    export(CHECKPOINT, out=folder)
    return folder


@pytest.fixture(scope="session")
def subject(exports: Path) -> Subject:
    """The reference checkpoint and its exports."""
    return find_subject([exports], checkpoint=CHECKPOINT, model=None)
