"""Shared fixtures of the benchmarks: exports of the reference checkpoint, and the workers'
clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common import CHECKPOINT, WORKER_CLOCK, WorkerClock
from toolkit.artifacts.export import export
from toolkit.sessions.candidates import Subject, find_subject


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
