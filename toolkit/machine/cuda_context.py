"""Creation of the CUDA context in the background, while torch is imported.

In: nothing. Out: the driver's primary context, which torch then uses. This file does not import
torch.
"""

from __future__ import annotations

import ctypes
from threading import Thread

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def make_context_meanwhile() -> None:
    """Start creating the context in a thread; do nothing without a driver or a device.

    The driver takes about as long as the import of a part of torch, and only the import needs the
    interpreter. The thread is not a daemon, so an early exit waits for it.
    """
    Thread(target=_make_context, name="cuda-context").start()


def _make_context() -> None:
    """Create the context of the first visible device through the driver API:
    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__PRIMARY__CTX.html"""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _driver() -> ctypes.CDLL | None:
    for name in _DRIVERS:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
