"""What NVML tells of NVIDIA GPUs now: clock, power, temperature, what slows them down.

In: the driver, by the package nvidia-ml-py. Out: `GpuState` records; nothing without the package,
the driver or a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from toolkit.schema.machine import GpuState

# Bits of nvmlClocksEventReasons. Left out: that it idles (1), runs at a clock that somebody set (2)
# or at that of a group or display (0x10, 0x100). Source:
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
        """Its state now. What this GPU or driver does not tell is None."""
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
        """A driver before 535 knows the question by its old name only."""
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
    """A reader of the first device that CUDA sees; None where there is none that NVML knows."""
    nvml = _nvml()
    if nvml is None:
        return None
    with suppress(nvml.NVMLError):
        return GpuReader(nvml, _first_visible(nvml))
    return None


def all_states() -> list[GpuState]:
    """Of all GPUs of the machine, in the order of `nvidia-smi`."""
    nvml = _nvml()
    if nvml is None:
        return []
    with suppress(nvml.NVMLError):
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [GpuReader(nvml, handle).read() for handle in handles]
    return []


def slowed_by(bits: int) -> tuple[str, ...]:
    """NVML's event reasons in words; nothing for those that are no fault."""
    return tuple(word for bit, word in _SLOWED_BY.items() if bits & bit)


def _nvml() -> Any | None:
    """The module, ready to be asked."""
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
    """NVML counts all devices, CUDA those that `CUDA_VISIBLE_DEVICES` names by number or UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(visible))
    return nvml.nvmlDeviceGetHandleByUUID(visible)
