"""The current state of NVIDIA GPUs from NVML: clock, power, temperature, reasons for slowdowns.

In: the driver, through the package nvidia-ml-py. Out: `GpuState` records; none without the package,
the driver or a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from toolkit.schema.machine import GpuState

# Bits of nvmlClocksEventReasons. The bits for an idle GPU (1), a clock set by a user (2), and the
# clock of a group or a display (0x10, 0x100) are left out. Source:
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_SLOWED_BY = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat",
    0x40: "heat (hardware slowdown)",
    0x80: "power brake",
}


class GpuReader:
    """Reads the state of one GPU; `nvml` is the module pynvml."""

    def __init__(self, nvml: Any, handle: object) -> None:
        self._nvml = nvml
        self._handle = handle

    def read(self) -> GpuState:
        """Return the current state. Values that the GPU or driver does not report are None."""
        nvml = self._nvml
        return GpuState(
            clock_hz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM, unit=1e6),
            memory_clock_hz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM, unit=1e6),
            power_w=self._ask(nvml.nvmlDeviceGetPowerUsage, unit=1e-3),
            power_limit_w=self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, unit=1e-3),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            slowed_by=self._slowed_by(),
        )

    def _ask(self, question: Callable[..., Any], *more: object, unit: float = 1) -> float | None:
        with suppress(self._nvml.NVMLError):
            return float(question(self._handle, *more)) * unit
        return None

    def _slowed_by(self) -> tuple[str, ...] | None:
        """Return why the clock is lowered. Drivers before 535 only know the old name of the
        query."""
        nvml = self._nvml
        for question in (
            nvml.nvmlDeviceGetCurrentClocksEventReasons,
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        ):
            bits = self._ask(question)
            if bits is not None:
                return slowed_by(int(bits))
        return None


def open_reader() -> GpuReader | None:
    """Return a reader of the first device that CUDA sees; None if NVML does not know it."""
    nvml = _nvml()
    if nvml is None:
        return None
    with suppress(nvml.NVMLError):
        return GpuReader(nvml, _first_visible(nvml))
    return None


def all_states() -> list[GpuState]:
    """Return the states of all GPUs of the machine, in the order of `nvidia-smi`."""
    nvml = _nvml()
    if nvml is None:
        return []
    with suppress(nvml.NVMLError):
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [GpuReader(nvml, handle).read() for handle in handles]
    return []


def slowed_by(bits: int) -> tuple[str, ...]:
    """Return NVML's event reasons as text, without those that are not a slowdown."""
    return tuple(word for bit, word in _SLOWED_BY.items() if bits & bit)


def _nvml() -> Any | None:
    """Return the initialised module pynvml; None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver here
        return None
    return pynvml


def _first_visible(nvml: Any) -> object:
    """Return the handle of the first visible device. NVML numbers all devices, CUDA only those that
    `CUDA_VISIBLE_DEVICES` names by number or UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(visible))
    return nvml.nvmlDeviceGetHandleByUUID(visible)
