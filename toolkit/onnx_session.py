"""What the runtimes on ONNX Runtime share: a session on one provider, and what really ran.

Inputs and outputs are not bound in advance: that gave nothing (0.2 % at a batch of 100, 0.4 % at
1, medians of alternating calls).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.contents.onnx import read_onnx, read_ort
from toolkit.errors import Unsupported
from toolkit.machine.environment import NewThreads
from toolkit.runtimes import Source
from toolkit.schema import Attestation, Device, Precision, Settings

# Else it tells its makers about each session, from a thread of its own (seen in 1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def open_session(
    source: Source,
    settings: Settings,
    *,
    runtime: str,
    provider: str,
    options: Mapping[str, str],
    whole: bool = False,
) -> OnnxSession:
    """Load an `.onnx` or `.ort` file on `provider`; with `whole` nothing may be left to the CPU.

    Raises:
        Unsupported: the provider is not there, or not the one that the session got.
    """
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise Unsupported(
            f"onnxruntime {onnxruntime.__version__} has no {provider}, only "
            f"{', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu in "
            "place of onnxruntime"
        )
    asked = onnxruntime.SessionOptions()
    asked.intra_op_num_threads = settings.threads
    asked.inter_op_num_threads = 1
    asked.log_severity_level = 3
    # Its threads spin while a call runs, as they do by default, but not after it: an idle worker
    # must not take the core from the one that is being timed.
    asked.add_session_config_entry("session.force_spinning_stop", "1")
    own_format = source.artifact.format == "ort"
    asked.add_session_config_entry("session.load_model_format", "ORT" if own_format else "ONNX")
    asked.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(whole)))
    asked.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    new_threads = NewThreads()
    session = onnxruntime.InferenceSession(
        str(source.path),
        sess_options=asked,
        providers=[(provider, dict(options))],
        enable_fallback=0,  # else what the provider cannot do is done on the CPU, without a word
    )
    if session.get_providers()[0] != provider:
        # Without this check a missing CUDA library shows as a warning and a slow CPU run.
        raise Unsupported(
            f"asked onnxruntime for {provider}, it runs {session.get_providers()[0]}; "
            "its libraries may be missing or of another version"
        )
    started = new_threads.count()
    threads = session.get_session_options().intra_op_num_threads
    if settings.device == "cpu" and started is not None:
        threads = 1 + started  # the calling thread works too; a GPU's driver starts others
    contents = read_ort(source.path) if own_format else read_onnx(source.path)
    return OnnxSession(
        session,
        runtime=runtime,
        version=onnxruntime.__version__,
        precision=contents.precision,
        threads=threads,
    )


class OnnxSession:
    """An `InferenceSession` with one input and one output."""

    def __init__(
        self, session: Any, *, runtime: str, version: str, precision: Precision, threads: int
    ) -> None:
        self._session = session
        self._runtime = runtime
        self._version = version
        self._precision = precision
        self._threads = threads

    @property
    def attestation(self) -> Attestation:
        """Provider from the session, with its share of the operators where it has not all of them;
        precision from the file, threads as the system counts them."""
        provider = self._session.get_providers()[0]
        device: Device = "cpu" if provider == "CPUExecutionProvider" else "cuda"
        return Attestation(
            runtime=self._runtime,
            version=self._version,
            provider=provider + self._share(provider),
            device=device,
            precision=self._precision,
            threads=self._threads,
        )

    def _share(self, provider: str) -> str:
        if not hasattr(self._session, "get_provider_graph_assignment_info"):  # older versions
            return ""
        parts = self._session.get_provider_graph_assignment_info()
        all_operators = sum(len(part.get_nodes()) for part in parts)
        own = sum(len(part.get_nodes()) for part in parts if part.ep_name == provider)
        return "" if own == all_operators else f" ({own} of {all_operators} operators)"

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        logits: NDArray[np.floating] = self._session.run(["logits"], {"input": inputs})[0]
        return logits
