"""What NVML tells of the CUDA device now: clock, power, temperature, what throttles it.

In: the driver, by the package nvidia-ml-py. Out: a `GpuState`; None without the package, the driver
or a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from toolkit.schema import GpuState

_HARMLESS = ("gpu_idle", "applications_clocks_setting", "none", "all", "sync_boost")


class GpuReader:
    """Reads the state of one device, the first that is visible unless `device_name` of another is
    asked for; see `open_reader`."""

    def __init__(self, nvml: Any, handle: object) -> None:
        self._nvml = nvml
        self._handle = handle

    def read(self) -> GpuState:
        """Its state now. What this device or driver does not tell is None."""
        nvml = self._nvml
        return GpuState(
            clock_hz=self._scaled(nvml.nvmlDeviceGetClockInfo, 1e6, nvml.NVML_CLOCK_SM),
            memory_clock_hz=self._scaled(nvml.nvmlDeviceGetClockInfo, 1e6, nvml.NVML_CLOCK_MEM),
            power_w=self._scaled(nvml.nvmlDeviceGetPowerUsage, 1e-3),
            power_limit_w=self._scaled(nvml.nvmlDeviceGetEnforcedPowerLimit, 1e-3),
            temperature_c=self._scaled(
                nvml.nvmlDeviceGetTemperature, 1.0, nvml.NVML_TEMPERATURE_GPU
            ),
            throttled=self._throttled(),
        )

    def _scaled(self, ask: Callable[..., Any], unit: float, *more: object) -> float | None:
        with suppress(self._nvml.NVMLError):
            return float(ask(self._handle, *more)) * unit
        return None

    def _throttled(self) -> tuple[str, ...] | None:
        """NVML has renamed "throttle reasons" to "event reasons"; both mean the same bits."""
        for name in ("ClocksEventReasons", "ClocksThrottleReasons"):
            ask = getattr(self._nvml, f"nvmlDeviceGetCurrent{name}", None)
            if ask is not None:
                with suppress(self._nvml.NVMLError):
                    return reasons_in(int(ask(self._handle)), _reason_bits(self._nvml))
        return None


def open_reader(index: int = 0) -> GpuReader | None:
    """A reader of the device that CUDA counts as `index`; None where that cannot be read."""
    try:
        import pynvml
    except ImportError:
        return None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return GpuReader(pynvml, _handle(pynvml, index))
    return None


def reasons_in(mask: int, bits: dict[str, int]) -> tuple[str, ...]:
    """The names of the bits that are set, without those that slow nothing down."""
    return tuple(sorted(name for name, bit in bits.items() if mask & bit and name not in _HARMLESS))


def _reason_bits(nvml: Any) -> dict[str, int]:
    """Name, such as `sw_power_cap` → bit, as this version of the package has them."""
    found = {}
    for attribute in dir(nvml):
        for prefix in ("nvmlClocksEventReason", "nvmlClocksThrottleReason"):
            if attribute.startswith(prefix) and isinstance(getattr(nvml, attribute), int):
                found[_snake(attribute.removeprefix(prefix))] = getattr(nvml, attribute)
    return found


def _snake(name: str) -> str:
    """`SwPowerCap` → `sw_power_cap`."""
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")


def _handle(nvml: Any, index: int) -> Any:
    """NVML counts all devices of the machine, CUDA those in `CUDA_VISIBLE_DEVICES`, which names
    them by number or by UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if index >= len(names):
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    name = names[index]
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)
