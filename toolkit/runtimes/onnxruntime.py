"""ONNX Runtime on the CPU or CUDA provider: `.onnx` and its own `.ort`.

Inputs and outputs are not bound in advance: that gave nothing (0.2 % at a batch of 100, 0.4 % at
1, medians of alternating calls).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.environment import thread_count
from toolkit.errors import Unsupported
from toolkit.onnx_contents import read_onnx, read_ort
from toolkit.runtimes import Session, Source
from toolkit.schema import Attestation, Precision, Settings

# Else it tells its makers about each session, from a thread of its own (seen in 1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` or `.ort` file.

    Raises:
        Unsupported: the provider that was asked for is not the one that the session got.
    """
    import onnxruntime

    provider = _PROVIDERS[settings.device]
    if provider not in onnxruntime.get_available_providers():
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} has no {provider}, only "
            f"{', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu in "
            "place of onnxruntime, or use --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads spin while a call runs, as they do by default, but not after it: an idle worker
    # must not take the core from the one that is being timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    own_format = source.artifact.format == "ort"
    options.add_session_config_entry("session.load_model_format", "ORT" if own_format else "ONNX")
    providers: list[Any] = [provider]
    if settings.device == "cuda":
        providers = [(provider, {"use_tf32": "0"})]  # fp32 means fp32
    before = thread_count()
    session = onnxruntime.InferenceSession(
        str(source.path), sess_options=options, providers=providers
    )
    if session.get_providers()[0] != provider:
        # Without this check a missing CUDA library shows as a warning and a slow CPU run.
        raise Unsupported(
            f"asked onnxruntime for {provider}, it runs {session.get_providers()[0]}; "
            "its CUDA libraries may be missing or of another version"
        )
    after = thread_count()
    started = None if before is None or after is None else after - before
    contents = read_ort(source.path) if own_format else read_onnx(source.path)
    return OnnxSession(
        session, onnxruntime.__version__, precision=contents.precision, started_threads=started
    )


class OnnxSession:
    """An `InferenceSession` with one input and one output."""

    def __init__(
        self, session: Any, version: str, *, precision: Precision, started_threads: int | None
    ) -> None:
        asked = session.get_session_options().intra_op_num_threads
        self._session = session
        self._version = version
        self._precision = precision
        # The calling thread works too. A GPU's driver starts threads of its own.
        on_cpu = session.get_providers()[0] == _PROVIDERS["cpu"]
        self._threads = asked if started_threads is None or not on_cpu else started_threads + 1

    @property
    def attestation(self) -> Attestation:
        """Provider from the session, precision from the file, threads as the system counts them."""
        return Attestation(
            runtime="onnxruntime",
            version=self._version,
            provider=self._session.get_providers()[0],
            device="cuda" if self._session.get_providers()[0] == _PROVIDERS["cuda"] else "cpu",
            precision=self._precision,
            threads=self._threads,
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        logits: NDArray[np.floating] = self._session.run(["logits"], {"input": inputs})[0]
        return logits
