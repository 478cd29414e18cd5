"""GPU states are recorded before, during and after a run."""

from __future__ import annotations

from threading import Event, active_count
from typing import Any

import pytest
from conftest import wait_until

from toolkit.machine.gpu_watch import watched
from toolkit.schema import GpuState


class Reader:
    """Returns a different state for each reading."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> GpuState:
        self.reads += 1
        return GpuState(clock_hz=float(self.reads))


def test_states_are_recorded_before_during_and_after() -> None:
    reader: Any = Reader()
    with watched(reader) as states:
        assert len(states) >= 1
        wait_until(lambda: len(states) >= 3, "the GPU was read twice during the run")
    assert len(states) == reader.reads >= 4
    assert [state.clock_hz for state in states] == [n + 1.0 for n in range(reader.reads)]


def test_error_in_the_body_ends_the_readings() -> None:
    reader: Any = Reader()
    before = active_count()
    with pytest.raises(ValueError, match="in the round"), watched(reader):
        raise ValueError("in the round")
    assert active_count() == before
    Event().wait(0.1)
    assert reader.reads == 2


def test_missing_reader_gives_no_states() -> None:
    with watched(None) as states:
        pass
    assert states == []
