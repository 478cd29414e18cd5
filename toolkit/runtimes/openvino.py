"""OpenVINO on the CPU: its own IR, a folder with `model.xml`, and ONNX as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.runtimes import Session, Source
from toolkit.schema import Attestation, Precision, Settings

# `import openvino` tells a server of its makers, from a child process, unless this package, which
# comes with it, is missing (seen in 2026.4.1). So here it is missing: no socket is opened then.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_PRECISIONS: dict[str, Precision] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
# As the executed graph names them.
_LAYERS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_KEPT_BATCH_SIZES = 4


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file or an IR folder; it is compiled at the first call of each batch size."""
    import openvino

    core = openvino.Core()
    path = source.path / "model.xml" if source.path.is_dir() else source.path
    model = core.read_model(path)

    def compiled(batch_size: int) -> FixedBatch:
        fixed = model.clone()
        fixed.reshape({fixed.input(0): [batch_size, *source.artifact.input_shape]})
        return FixedBatch(core.compile_model(fixed, "CPU", _properties(settings.threads)))

    return OpenvinoSession(compiled, openvino.__version__, half_weights=_has_half_weights(model))


def _has_half_weights(model: Any) -> bool:
    """The compiled model cannot tell: it holds them as it computes with them."""
    return any(
        node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "f16"
        for node in model.get_ops()
    )


def _properties(threads: int) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # by default bf16 where the CPU has it
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",  # one call at a time, on all threads
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # By default it runs at most one thread a physical core, however many were asked for.
        "ENABLE_HYPER_THREADING": True,
        # By default each process ties its first thread to the same first core.
        "ENABLE_CPU_PINNING": False,
    }


class FixedBatch:
    """A model compiled for one batch size, with one input and one output that stay in place.

    With a dynamic batch and OpenVINO's own call on arrays a single image takes 13 to 22 % longer,
    a hundred take 1 % longer (medians of alternating calls, 1 and 2 threads).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._request = model.create_infer_request()
        self._input = self._request.get_input_tensor().data
        self._output = self._request.get_output_tensor().data

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        self._input[:] = inputs
        self._request.infer(share_outputs=True)
        logits: NDArray[np.floating] = self._output.copy()  # the next call writes over it
        return logits


class OpenvinoSession:
    """The model compiled for the batch sizes that came last."""

    def __init__(
        self, compiled: Callable[[int], FixedBatch], version: str, *, half_weights: bool
    ) -> None:
        self._compiled = lru_cache(maxsize=_KEPT_BATCH_SIZES)(compiled)
        self._batch_size = 1
        self._version = version
        self._half_weights = half_weights

    @property
    def attestation(self) -> Attestation:
        """Devices, precision and threads as the model that ran last reports them.

        int8 is what is computed in it, whatever the file asks for; fp16 is float16 weights.
        """
        model = self._compiled(self._batch_size).model
        precision = _PRECISIONS[model.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
        if _executed_precisions(model) & {"i8", "u8"}:
            precision = "int8"
        elif self._half_weights:
            precision = "fp16"
        return Attestation(
            runtime="openvino",
            version=self._version,
            device="cpu",
            provider=",".join(model.get_property("EXECUTION_DEVICES")),
            precision=precision,
            threads=model.get_property("INFERENCE_NUM_THREADS"),
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        self._batch_size = len(inputs)
        return self._compiled(len(inputs)).run(inputs)


def _executed_precisions(model: Any) -> set[str]:
    """What convolutions and matrix products take in, in the graph that is executed."""
    nodes = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    return {
        node["runtimePrecision"].astype(str)
        for node in nodes
        if node["layerType"].astype(str) in _LAYERS
    }
