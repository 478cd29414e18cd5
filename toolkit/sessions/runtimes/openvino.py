"""OpenVINO on the CPU: its own IR, a folder with `model.xml`, and unchanged ONNX files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArtifactError
from toolkit.files import open_regular
from toolkit.schema import FLOAT32, UNKNOWN, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

# `import openvino` sends telemetry from a child process, unless this package, which comes with it,
# is missing (seen in 2026.4.1). Here it is hidden, so no socket is opened.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_PRECISIONS: dict[str, Precision] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_EIGHT_BITS_OR_LESS = {"i8", "u8", "i4", "u4", "nf4", "f8e4m3", "f8e5m2"}
# The arithmetic of a kernel is the end of its name, as in `brgconv_avx512_amx_bf16`.
_ARITHMETIC = {"f32": FLOAT32, "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}
# Names in the executed graph.
_LAYERS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_SHORTEST_FIRST = ("int8", UNKNOWN, "bfloat16", "float16", FLOAT32)
_KEPT_BATCH_SIZES = 4


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file or an IR folder; it is compiled at the first call of each batch size."""
    import openvino

    core = openvino.Core()
    own = source.artifact.format == "openvino"
    path = source.path / "model.xml" if own else source.path
    if _starts_as_xml(path) != own:
        raise ArtifactError(
            f"{path} is not a file of format {source.artifact.format}; OpenVINO would take it for "
            "another one, whose other files no checksum covers: export it again"
        )
    model = core.read_model(path)
    _check_input(model, source)

    def compiled(batch_size: int) -> CompiledBatch:
        fixed = model.clone()
        fixed.reshape({fixed.input(0): [batch_size, *source.artifact.input_shape]})
        return CompiledBatch(core.compile_model(fixed, "CPU", _properties(settings.threads)))

    return OpenvinoSession(compiled, openvino.__version__, stored=_stored_precision(model))


def _check_input(model: Any, source: Source) -> None:
    """Raise ArtifactError if the file takes another type than its record says: OpenVINO would
    convert the input in silence."""
    found = model.input(0).get_element_type().get_type_name()
    wanted, words = ("u8", "uint8") if source.artifact.embeds_preprocessing else ("f32", "float32")
    if found != wanted:
        raise ArtifactError(
            f"{source.path}: its input is {found}, but its record says {words}; export it again"
        )


def _starts_as_xml(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(100).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _stored_precision(model: Any) -> Precision:
    """Return the narrowest type that weights are stored in or values are cast to. The compiled
    model does not show it, because it holds weights in their computed type."""
    outputs = [(node.get_type_name(), each) for node in model.get_ops() for each in node.outputs()]
    types = {each.get_element_type().get_type_name() for _, each in outputs}
    matrices = {
        each.get_element_type().get_type_name()
        for kind, each in outputs
        if kind == "Constant" and len(each.get_partial_shape()) > 1
    }
    if matrices & _EIGHT_BITS_OR_LESS:
        return "int8-weights"
    return next((_PRECISIONS[each] for each in ("f16", "bf16") if each in types), "fp32")


def _properties(threads: int) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 if the CPU supports it
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",  # one call at a time, on all threads
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # By default it runs at most one thread per physical core, whatever was requested.
        "ENABLE_HYPER_THREADING": True,
        # By default each process ties its first thread to the same first core.
        "ENABLE_CPU_PINNING": False,
    }


class CompiledBatch:
    """A model compiled for one batch size, with one input and one output that keep their memory.

    With a dynamic batch and OpenVINO's own call on arrays, a single image takes 13 to 22 % longer,
    and a hundred take 1 % longer (medians of alternating calls, 1 and 2 threads).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._request = model.create_infer_request()
        self._input = self._request.get_input_tensor().data
        self._output = self._request.get_output_tensor().data

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        self._input[:] = inputs
        self._request.infer(share_outputs=True)
        logits: NDArray[np.floating] = self._output.copy()  # the next call overwrites it
        return logits


class OpenvinoSession:
    """The model compiled for the most recent batch sizes."""

    def __init__(
        self, compiled: Callable[[int], CompiledBatch], version: str, *, stored: Precision
    ) -> None:
        self._compiled = lru_cache(maxsize=_KEPT_BATCH_SIZES)(compiled)
        self._batch_size = 1
        self._version = version
        self._stored = stored

    @property
    def attestation(self) -> Attestation:
        """Devices, precision, threads and kernels as reported by the model that ran last.

        int8 means that it is computed in int8, whatever the file requests; fp16 means float16
        weights.
        """
        model = self._compiled(self._batch_size).model
        layers = _executed_layers(model)
        precision = _PRECISIONS[model.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
        from_file = False
        if {each.precision for each in layers} & {"i8", "u8"}:
            precision = "int8"
        elif precision == "fp32":
            precision, from_file = self._stored, True
        return Attestation(
            runtime="openvino",
            version=self._version,
            device="cpu",
            provider=",".join(model.get_property("EXECUTION_DEVICES")),
            precision=precision,
            threads=model.get_property("INFERENCE_NUM_THREADS"),
            arithmetic=_arithmetic(layers, precision),
            evidence={
                "provider": "read back",
                "precision": "from the file" if from_file else "read back",
                "threads": "read back",
                "arithmetic": "read back",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`."""
        self._batch_size = len(inputs)
        return self._compiled(len(inputs)).run(inputs)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product that is executed: its kernel and its input types."""

    kernel: str
    precision: str


def _executed_layers(model: Any) -> list[Layer]:
    facts = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    return [
        Layer(
            kernel=each["primitiveType"].astype(str), precision=each["runtimePrecision"].astype(str)
        )
        for each in facts
        if each["layerType"].astype(str) in _LAYERS
    ]


def _arithmetic(layers: list[Layer], precision: Precision) -> str:
    """Return the arithmetic from the names of the kernels; if they differ, the narrowest."""
    kernels = [each.kernel.lower() for each in layers]
    found = {_ARITHMETIC.get(each.rpartition("_")[2], UNKNOWN) for each in kernels}
    word = next((each for each in _SHORTEST_FIRST if each in found), UNKNOWN)
    if word != FLOAT32:
        return word
    if any("wino" in each for each in kernels):
        return "float32 (Winograd)"
    stored = {"fp16": "float16", "int8-weights": "int8"}
    return f"float32 on {stored[precision]} weights" if precision in stored else word
