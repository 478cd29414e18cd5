"""ExecuTorch on the CPU, with its XNNPACK delegate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.parsers.executorch import XNNPACK, Program, read_program
from toolkit.errors import Crashed
from toolkit.schema import FLOAT32, UNKNOWN, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

# XNNPACK computes in the types of its graph's tensors; it has no Winograd convolutions.
_ARITHMETIC: dict[Precision, str] = {
    "fp32": FLOAT32,
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "int8-dynamic": "int8 (dynamic)",
    "int8-weights": "float32 on int8 weights",
}

# executorch/runtime/core/error.h
_ERRORS = {
    **{0x01: "Internal", 0x02: "InvalidState", 0x03: "EndOfMethod", 0x04: "AlreadyLoaded"},
    **{0x10: "NotSupported", 0x11: "NotImplemented", 0x12: "InvalidArgument", 0x13: "InvalidType"},
    **{0x14: "OperatorMissing", 0x15: "RegistrationExceedingMaxKernels"},
    **{0x16: "RegistrationAlreadyRegistered", 0x20: "NotFound", 0x21: "MemoryAllocationFailed"},
    **{0x22: "AccessFailed", 0x23: "InvalidProgram", 0x24: "InvalidExternalData"},
    **{0x25: "OutOfResources", 0x30: "DelegateInvalidCompatibility"},
    **{0x31: "DelegateMemoryAllocationFailed", 0x32: "DelegateInvalidHandle"},
}


def load(source: Source, settings: Settings) -> Session:
    """Load a `.pte` file.

    Raises:
        Unsupported: A file without XNNPACK.
    """
    from executorch.runtime import Runtime, Verification

    _set_threads(settings.threads)
    runtime = Runtime.get()
    with _codes_named():
        loaded = runtime.load_program(source.path, verification=Verification.InternalConsistency)
        return ExecutorchSession(loaded, read_program(source.path.read_bytes()))


@contextmanager
def _codes_named() -> Iterator[None]:
    """Name the number that ExecuTorch gives as its reason."""
    try:
        yield
    except RuntimeError as error:
        code = re.search(r"error:? 0x:?([0-9a-f]+)", str(error))
        name = None if code is None else _ERRORS.get(int(code[1], 16))
        if name is None:
            raise
        raise Crashed(f"{error} ({name})") from error


def _set_threads(threads: int) -> None:
    """Set the size of the process's only thread pool. A method keeps the pool that it was loaded
    with, so sessions loaded before the change must not run after it."""
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)


class ExecutorchSession:
    """The `forward` method, called with as many images at a time as its memory is planned for."""

    def __init__(self, loaded: Any, program: Program) -> None:
        import torch

        self._loaded = loaded  # it owns the memory that the method works in
        self._method = loaded.load_method("forward")
        self._program = program
        self._largest_batch = int(self._method.metadata.input_tensor_meta(0).sizes()[0])
        self._tensor = torch.from_numpy

    @property
    def attestation(self) -> Attestation:
        """Delegate and precision from the file's program, threads from the runtime's pool."""
        from executorch.extension.pybindings import portable_lib
        from executorch.version import __version__

        precision = self._program.precision
        share = f"{self._program.delegated} of {self._program.operators} operators"
        return Attestation(
            runtime="executorch",
            version=__version__,
            provider=f"{XNNPACK} ({share})",
            device="cpu",
            precision=precision,
            threads=portable_lib._threadpool_get_thread_count(),
            arithmetic=_ARITHMETIC.get(precision, UNKNOWN),
            evidence={
                "provider": "from the file",
                "precision": "from the file",
                "threads": "read back",
                "arithmetic": "from the file",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`, which the runtime copies from its
        memory."""
        size = self._largest_batch
        if len(inputs) <= size:
            return self._run(inputs)
        parts = [self._run(inputs[at : at + size]) for at in range(0, len(inputs), size)]
        return np.concatenate(parts)

    def _run(self, inputs: Inputs) -> NDArray[np.floating]:
        with _codes_named():
            (output,) = self._method.execute([self._tensor(np.ascontiguousarray(inputs))])
        logits: NDArray[np.floating] = output.numpy()
        return logits
