"""NVML's values become a state; values that it does not report are None."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.machine.gpu_state import all_states, open_reader, slowed_by
from toolkit.schema import GpuState


class NVMLError(Exception):
    """A stand-in for pynvml's exception."""


class Nvml(SimpleNamespace):
    """A stand-in for pynvml with two GPUs, whose handles are their numbers; `silent` queries
    fail."""

    def __init__(self, *silent: str) -> None:
        answers: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-second": 1}[uuid],
            "nvmlDeviceGetClockInfo": lambda gpu, kind: (345 + gpu, 2619)[kind],
            "nvmlDeviceGetPowerUsage": lambda gpu: 76_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 700_000,
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 31,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x4 | 0x1,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: 0x20,
        }
        for name in silent:
            answers[name] = self._fail
        constants = {"NVML_CLOCK_SM": 0, "NVML_CLOCK_MEM": 1, "NVML_TEMPERATURE_GPU": 0}
        super().__init__(NVMLError=NVMLError, **answers, **constants)

    @staticmethod
    def _fail(*_: object) -> None:
        raise NVMLError("not supported")


def use(monkeypatch: pytest.MonkeyPatch, nvml: object, visible: str | None = None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def first_state() -> GpuState | None:
    reader = open_reader()
    return None if reader is None else reader.read()


def test_a_state_is_in_si_units(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml())
    assert first_state() == GpuState(
        clock_hz=345e6,
        memory_clock_hz=2619e6,
        power_w=76.5,
        power_limit_w=700.0,
        temperature_c=31.0,
        slowed_by=("power limit",),
    )


@pytest.mark.parametrize(
    ("visible", "clock_hz"),
    [("0", 345e6), ("1,0", 346e6), ("GPU-second", 346e6), (" 1 ", 346e6)],
)
def test_first_device_visible_to_cuda_is_read(
    monkeypatch: pytest.MonkeyPatch, visible: str, clock_hz: float
) -> None:
    use(monkeypatch, Nvml(), visible)
    state = first_state()
    assert state is not None
    assert state.clock_hz == clock_hz


def test_unreported_values_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature"))
    state = first_state()
    assert state is not None
    assert (state.power_w, state.temperature_c, state.clock_hz) == (None, None, 345e6)


def test_older_driver_is_queried_by_the_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml("nvmlDeviceGetCurrentClocksEventReasons"))
    state = first_state()
    assert state is not None
    assert state.slowed_by == ("heat",)
    both = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    use(monkeypatch, Nvml(*both))
    state = first_state()
    assert state is not None
    assert state.slowed_by is None


@pytest.mark.parametrize(
    "nvml",
    [None, Nvml("nvmlInit"), Nvml("nvmlDeviceGetHandleByIndex")],
    ids=["no package", "no driver", "no device"],
)
def test_missing_package_driver_or_device_gives_no_reader(
    monkeypatch: pytest.MonkeyPatch, nvml: object
) -> None:
    use(monkeypatch, nvml)
    assert open_reader() is None
    assert all_states() == []


def test_all_gpus_are_listed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml(), "1")
    assert [state.clock_hz for state in all_states()] == [345e6, 346e6]


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (0x1 | 0x2 | 0x10 | 0x100, ()),
        (0x8 | 0x40 | 0x80, ("hardware slowdown", "heat (hardware slowdown)", "power brake")),
    ],
)
def test_idle_or_user_set_clock_is_not_a_slowdown(bits: int, words: tuple[str, ...]) -> None:
    assert slowed_by(bits) == words
