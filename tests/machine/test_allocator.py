"""Kept memory: real blocks of the C library, counted by the system, in separate processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolkit.machine.allocator import can_keep_memory

pytestmark = pytest.mark.skipif(not can_keep_memory(), reason="needs glibc")

# Writes to a block of 32 MiB and frees it, twenty times; prints how many pages that took.
PROGRAM = """
import ctypes, resource
from toolkit.machine import allocator
SIZE = 32 << 20
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = library.malloc(SIZE)
        ctypes.memset(block, 1, SIZE)
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1])
"""
BLOCK_PAGES = (32 << 20) // 4096


def run(program: str) -> list[int]:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, check=True
    ).stdout
    return [int(word) for word in output.split()]


def test_kept_memory_is_allocated_once() -> None:
    """With small or large pages: the given pages serve the next twenty blocks."""
    held, given_again = run(
        "assert allocator.keep_memory(); before = resident(); pages()\n"
        "print(resident() - before); print(pages())"
    )
    assert held > BLOCK_PAGES / 2
    assert given_again < BLOCK_PAGES / 4


def test_memory_returns_to_the_system_afterwards() -> None:
    before, within, after = run(
        "print(resident())\nwith allocator.kept_memory(): pages(); print(resident())\n"
        "print(resident())"
    )
    assert within - before > BLOCK_PAGES / 2
    assert after - before < BLOCK_PAGES / 4


def test_error_passes_through_and_memory_is_returned() -> None:
    before, after = run(
        "print(resident())\n"
        "try:\n"
        "    with allocator.kept_memory(): pages(); raise KeyError\n"
        "except KeyError: print(resident())"
    )
    assert after - before < BLOCK_PAGES / 4
