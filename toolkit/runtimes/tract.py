"""tract, a small engine in Rust, on one thread of the CPU; it reads ONNX as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Unsupported
from toolkit.machine.environment import NewThreads
from toolkit.runtimes import Session, Source
from toolkit.schema import Attestation, Precision, Settings


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file."""
    import tract

    new_threads = NewThreads()
    # No fact is set for the input: the file's own has a dynamic batch, and tract takes that.
    runnable = tract.onnx().load(source.path).into_model().into_runnable()
    started = new_threads.count() or 0
    return TractSession(runnable, tract.version(), source.path, threads=1 + started)


class TractSession:
    """A `Runnable` with one input and one output."""

    def __init__(self, runnable: Any, version: str, path: Path, *, threads: int) -> None:
        self._runnable = runnable
        self._version = version
        self._path = path
        self._threads = threads

    @property
    def attestation(self) -> Attestation:
        """Precision from the file's weights, threads as the system counts those that it started."""
        return Attestation(
            runtime="tract",
            version=self._version,
            provider="cpu",
            device="cpu",
            precision=_precision_of(self._path),
            threads=self._threads,
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        logits: NDArray[np.floating] = self._runnable.run([inputs])[0].to_numpy()
        return logits


def _precision_of(path: Path) -> Precision:
    """That of the weights: tract multiplies in float32, and widens what is stored in float16.

    Raises:
        Unsupported: quantised weights: tract rounds as the file says, but multiplies in float32.
    """
    import onnx

    graph = onnx.load(path).graph
    weights = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    if weights == {onnx.TensorProto.FLOAT}:
        return "fp32"
    if weights == {onnx.TensorProto.FLOAT16}:
        return "fp16"
    names = ", ".join(sorted(onnx.TensorProto.DataType.Name(each) for each in weights))
    raise Unsupported(f"{path} has weights in {names}; tract computes with FLOAT or FLOAT16")
