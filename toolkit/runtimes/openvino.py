"""OpenVINO on the CPU; it reads ONNX as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Unsupported
from toolkit.runtimes import Session, Source
from toolkit.schema import Attestation, Precision, Settings

# `import openvino` tells a server of its makers, from a child process, unless this package, which
# comes with it, is missing (seen in 2026.4.1). So here it is missing: no socket is opened then.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_PRECISIONS: dict[str, Precision] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_KEPT_BATCH_SIZES = 4


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file; it is compiled at the first call of each batch size.

    Raises:
        Unsupported: another device than the CPU was asked for.
    """
    import openvino

    if settings.device != "cpu":
        raise Unsupported(
            f"openvino runs on the CPU here, not on {settings.device}; use --device cpu"
        )
    core = openvino.Core()
    model = core.read_model(source.path)

    def compiled(batch_size: int) -> Any:
        fixed = model.clone()
        fixed.reshape({"input": [batch_size, *source.artifact.input_shape]})
        return core.compile_model(fixed, "CPU", _properties(settings.threads))

    return OpenvinoSession(compiled, openvino.__version__)


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


class OpenvinoSession:
    """A model with one input and one output, compiled for each batch size.

    A dynamic batch takes as long from 8 images on, but 3 to 4 % longer for a single one.
    """

    def __init__(self, compiled: Callable[[int], Any], version: str) -> None:
        self._compiled = lru_cache(maxsize=_KEPT_BATCH_SIZES)(compiled)
        self._batch_size = 1
        self._version = version

    @property
    def attestation(self) -> Attestation:
        """Devices, precision and threads as the model that ran last reports them."""
        model = self._compiled(self._batch_size)
        precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return Attestation(
            runtime="openvino",
            version=self._version,
            provider=",".join(model.get_property("EXECUTION_DEVICES")),
            precision=_PRECISIONS[precision],
            threads=model.get_property("INFERENCE_NUM_THREADS"),
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]`, read in place → logits `[N,K]`, a copy."""
        self._batch_size = len(inputs)
        logits: NDArray[np.floating] = self._compiled(len(inputs))({"input": inputs})["logits"]
        return logits
