"""The allocator of the C library: keep freed memory in the process.

By default, glibc returns large blocks to the system when they are freed. A network whose layers
allocate their outputs in every call then pays for each page again. PyTorch's eager mode takes 1.5
to 2 times as long and varies more. The manual page mallopt(3) of glibc describes the parameters.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_DEFAULTS = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 * 2**10, _TOP_PAD: 0}


def can_keep_memory() -> bool:
    """Return whether the C library supports these parameters (glibc does)."""
    return hasattr(ctypes.CDLL(None), "mallopt")


def keep_memory() -> bool:
    """From now on, keep freed memory in this process for the next allocation.

    Returns:
        Whether this succeeded; False if the C library has no such parameters.
    """
    return _set(_KEEPING)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process, and return it to the system at the end. Do nothing if the C
    library has no such parameters."""
    if not keep_memory():
        yield
        return
    try:
        yield
    finally:
        _set(_DEFAULTS)
        ctypes.CDLL(None).malloc_trim(0)


def _set(parameters: dict[int, int]) -> bool:
    library = ctypes.CDLL(None)
    return can_keep_memory() and all(library.mallopt(*each) == 1 for each in parameters.items())
