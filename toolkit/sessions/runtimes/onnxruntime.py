"""ONNX Runtime on the CPU or CUDA provider: `.onnx` and its own `.ort`."""

from __future__ import annotations

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source
from toolkit.sessions.runtimes._onnxruntime import open_session


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` or `.ort` file.

    Raises:
        Unsupported: the provider that was asked for is not the one that the session got.
    """
    cuda = settings.device == "cuda"
    return open_session(
        source,
        settings,
        runtime="onnxruntime",
        provider="CUDAExecutionProvider" if cuda else "CPUExecutionProvider",
        options={"use_tf32": "0"} if cuda else {},  # fp32 means fp32
    )
