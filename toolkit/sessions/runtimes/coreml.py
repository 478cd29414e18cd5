"""Core ML on the CPU of a Mac; written from the API of coremltools, not yet run on macOS."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Unsupported
from toolkit.machine.environment import usable_cores
from toolkit.schema import FLOAT32, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

# By default coremltools logs that it does not know the versions of other packages.
logging.getLogger("coremltools").setLevel(logging.ERROR)


def load(source: Source, settings: Settings) -> Session:
    """Load an `.mlpackage` folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        model = coremltools.models.MLModel(
            str(source.path), compute_units=coremltools.ComputeUnit.CPU_ONLY
        )
    return CoremlSession(model, coremltools.__version__)


class CoremlSession:
    """An `MLModel` with one input and one output."""

    def __init__(self, model: Any, version: str) -> None:
        spec = model.get_spec()
        self._model = model
        self._version = version
        self._precision = precision_of(spec)
        self._largest_batch = largest_batch(spec)

    @property
    def attestation(self) -> Attestation:
        """Compute units from the model, precision from its program. Core ML has no setting for
        threads and does not report them: it may use every core."""
        return Attestation(
            runtime="coreml",
            version=self._version,
            provider=self._model.compute_unit.name,
            device="cpu",
            precision=self._precision,
            threads=usable_cores(),
            arithmetic="float16" if self._precision == "fp16" else FLOAT32,
            evidence={
                "provider": "read back",
                "precision": "from the file",
                "threads": "as asked",
                "arithmetic": "from the file",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`; a batch above the largest size is split."""
        size = self._largest_batch
        parts = [
            self._model.predict({"input": inputs[start : start + size]})["logits"]
            for start in range(0, len(inputs), size)
        ]
        logits: NDArray[np.floating] = np.concatenate(parts).astype(np.float32, copy=False)
        return logits


def precision_of(spec: Any) -> Precision:
    """Return the precision of the weights in the ML program of a model's specification.

    Raises:
        Unsupported: No ML program, or weights that are not all float32 or all float16.
    """
    from coremltools.proto import MIL_pb2

    found = {
        output.type.tensorType.dataType
        for function in spec.mlProgram.functions.values()
        for operation in function.block_specializations[function.opset].operations
        for output in operation.outputs
        if operation.type == "const" and output.type.tensorType.rank > 1
    }
    if found == {MIL_pb2.FLOAT32}:
        return "fp32"
    if found == {MIL_pb2.FLOAT16}:
        return "fp16"
    names = [MIL_pb2.DataType.Name(each) for each in sorted(found)]
    raise Unsupported(f"weights in {names or 'no ML program'}, expected all FLOAT32 or all FLOAT16")


def largest_batch(spec: Any) -> int:
    """Return the largest N that a model's input `[N,C,H,W]` takes, from its specification."""
    array = spec.description.input[0].type.multiArrayType
    if array.HasField("shapeRange"):
        return int(array.shapeRange.sizeRanges[0].upperBound)
    return int(array.shape[0])
