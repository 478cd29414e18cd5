"""A runtime that fails as its source's `model` or a variable says; loaded only inside workers.

`reach FOLDER` tries what a worker may not do, with what lies in that folder; the version that it
attests counts what was refused.

`slow` and `segfault after 40 calls` take 30 ms per call, so that a short round is one call. `cache`
takes as long for an input other than the last one.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import Attestation, Settings
from toolkit.sessions.runtimes import Session, Source

VARIABLE = "FAULT"
THREADS_AT_IMPORT = os.environ.get("OMP_NUM_THREADS", "not set")
_CALLS_BEFORE_THE_FAULT = 2  # the first inference and one more succeed
_CALL_S = 0.03
_NUMBERS = itertools.count(1)  # of the sessions in this process


def load(source: Source, settings: Settings) -> Session:
    fault = source.model or os.environ.get(VARIABLE, "")
    if fault == "exit at load":
        os._exit(7)
    if fault == "hang with a child":
        subprocess.Popen(["sleep", "3600"])
    if fault == "raise at load":
        raise RuntimeError("cannot load this\nsecond line")
    return FaultySession(fault, source.artifact.classes, settings.threads)


def _reach(folder: Path) -> str:
    """Return how many of these attempts are refused."""
    attempts: list[Callable[[], object]] = [
        (folder / "key").read_text,
        (folder / "key").unlink,
        lambda: (folder / "written").write_text("x"),
        lambda: list(Path.home().parent.iterdir()),
        socket.socket,
        lambda: socket.create_connection(("127.0.0.1", 1)),
        lambda: subprocess.run(["touch", folder / "started"]),
        os.fork,
        lambda: os.kill(os.getppid(), 0),
        lambda: np.ones(1 << 40, np.uint8),
    ]
    refused = 0
    for attempt in attempts:
        try:
            attempt()
        except (PermissionError, MemoryError):
            refused += 1
    return f"{refused} of {len(attempts)} refused"


def _go_wrong(fault: str) -> None:
    """Fail during a load that was requested to last some seconds."""
    if "raises" in fault:
        raise ValueError("no such operator")
    if "dies" in fault:
        ctypes.string_at(0)
    time.sleep(3600)


class FaultySession:
    def __init__(self, fault: str, classes: int, threads: int) -> None:
        self._fault = fault
        self._classes = classes
        self._threads = threads
        self._calls = 0
        self._born_s = time.monotonic()
        self._number = next(_NUMBERS)
        self._last_input = b""
        self._version = THREADS_AT_IMPORT
        if fault.startswith("reach "):
            self._version = _reach(Path(fault.removeprefix("reach ")))

    @property
    def attestation(self) -> Attestation:
        return Attestation(
            runtime="faulty",
            version=self._version,
            provider=self._provider(),
            device="cuda" if self._fault == "other device" else "cpu",
            precision="fp16" if self._fault == "other precision" else "fp32",
            threads=self._threads + (self._fault == "other threads"),
        )

    def _provider(self) -> str:
        if self._fault == "other streams":
            return f"{os.getpid()} number {self._number}"
        if self._fault == "large block":
            return f"{_mapped_blocks(40 << 20)} mapped"
        return str(os.getpid())

    def run(self, inputs: Any) -> NDArray[np.floating]:
        self._calls += 1
        logits = np.zeros((len(inputs), self._classes), np.float32)
        if self._fault == "other logits in each process":
            logits[0, 0] = 1 + os.getpid()
        if self._fault == "writes into its input":
            inputs -= 0.1
        if self._fault == "cache":
            return self._from_cache(inputs, logits)
        if self._fault.startswith(("slow", "segfault after")):
            time.sleep(_CALL_S)
        if self._calls <= _CALLS_BEFORE_THE_FAULT:
            return logits
        if self._fault.startswith("segfault after") and self._calls > int(self._fault.split()[2]):
            ctypes.string_at(0)
        if "after 2 s" in self._fault and time.monotonic() - self._born_s > 2:
            _go_wrong(self._fault)
        if self._fault == "clock goes backwards":
            readings = itertools.count(0, -1)
            time.perf_counter_ns = lambda: next(readings)
        if self._fault == "segfault":
            print("about to fault", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        if self._fault == "abort":
            os.abort()
        if self._fault == "kill":
            os.kill(os.getpid(), 9)
        if self._fault == "exit":
            os._exit(0)
        if self._fault == "exit at 20 images" and len(inputs) == 20:
            os._exit(3)
        if self._fault == "raise":
            raise ValueError("no such operator")
        if self._fault.startswith("hang") and (self._calls > 8 or "later" not in self._fault):
            time.sleep(3600)
        if self._fault == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
            np.ones(1 << 40, np.uint8)
        if self._fault == "fill memory":
            blocks = [np.ones(1 << 24, np.uint8) for _ in range(128)]
            raise RuntimeError(f"{len(blocks)} blocks did fit")
        if self._fault == "noise":
            print("chatter on stdout", flush=True)
            os.write(1, b"more of it\n")
        if self._fault == "wrong shape":
            return logits[:, :-1]
        if self._fault == "wrong count":
            return logits[:-1]
        if self._fault == "wrong dtype":
            return logits.astype(np.float64)
        if self._fault == "not an array":
            return [0.0]  # type: ignore[return-value]
        if self._fault == "nan":
            logits[0, 0] = np.nan
        if self._fault == "wrong shape later" and self._calls > 8:
            return logits[:, :-1]
        if self._fault == "nan later" and self._calls > 8:
            logits[0, 0] = np.nan
        if self._fault == "other logits later" and self._calls > 8:
            logits[0, 0] = 1.0
        return logits

    def _from_cache(
        self, inputs: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        """Remember the last input, and be slow for any other."""
        given = inputs.tobytes()
        if given != self._last_input:
            self._last_input = given
            time.sleep(_CALL_S)
        return logits


class _Mallinfo(ctypes.Structure):
    """The result of glibc's mallinfo(3): ten numbers; the fourth counts separately mapped
    blocks."""

    _fields_ = [(f"number_{place}", ctypes.c_int) for place in range(10)]


def _mapped_blocks(size: int) -> int:
    """Return how many more blocks are mapped separately, outside the heap, while there is one of
    `size`."""
    library = ctypes.CDLL(None)
    library.mallinfo.restype = _Mallinfo
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = library.mallinfo().number_3
    block = library.malloc(size)
    mapped = library.mallinfo().number_3 - before
    library.free(block)
    return int(mapped)
