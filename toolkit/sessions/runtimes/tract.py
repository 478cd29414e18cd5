"""tract, a small engine in Rust, on one CPU thread; it reads unchanged ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.parsers.onnx import Contents, read_onnx
from toolkit.errors import Unsupported
from toolkit.machine.environment import NewThreads
from toolkit.schema import Attestation, Inputs, Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file."""
    import tract

    new_threads = NewThreads()
    # No input fact is set: the file's own has a dynamic batch, and tract accepts that.
    runnable = tract.onnx().load(source.path).into_model().into_runnable()
    started = new_threads.count()
    return TractSession(runnable, tract.version(), contents_of(source.path), started=started)


class TractSession:
    """A `Runnable` with one input and one output."""

    def __init__(
        self, runnable: Any, version: str, contents: Contents, *, started: int | None
    ) -> None:
        self._runnable = runnable
        self._version = version
        self._contents = contents
        self._started = started

    @property
    def attestation(self) -> Attestation:
        """Precision and arithmetic from the file; the started threads are counted by the system."""
        return Attestation(
            runtime="tract",
            version=self._version,
            provider="cpu",
            device="cpu",
            precision=self._contents.precision,
            threads=1 + (self._started or 0),
            arithmetic=self._contents.arithmetic,
            evidence={
                "provider": "by design",
                "precision": "from the file",
                "threads": "by design" if self._started is None else "read back",
                "arithmetic": "from the file",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`."""
        logits: NDArray[np.floating] = self._runnable.run([inputs])[0].to_numpy()
        return logits


def contents_of(path: Path) -> Contents:
    """Return the contents of the file: tract multiplies in float32, and converts weights stored in
    float16.

    Raises:
        Unsupported: Quantised weights: tract rounds as the file says, but multiplies in float32.
    """
    contents = read_onnx(path)
    if contents.precision not in ("fp32", "fp16"):
        raise Unsupported(
            f"{path} is {contents.precision}; tract computes in float32, with float32 or float16 "
            "weights"
        )
    return contents
