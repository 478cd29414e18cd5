"""The context of the CUDA device, made while torch is still being imported.

In: nothing. Out: the driver's primary context, which torch then uses. Imports no torch.
"""

from __future__ import annotations

import ctypes
from threading import Thread

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def make_context_meanwhile() -> None:
    """Begin to make it, in a thread; where there is no driver or no device, nothing happens.

    The driver needs about as long for it as Python for a part of torch, and only one of the two
    needs the interpreter. The thread is no daemon: an exit in the middle waits for it.
    """
    Thread(target=_make_context, name="cuda-context").start()


def _make_context() -> None:
    """Of the first device that is visible. The calls are those of the driver's interface:
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
