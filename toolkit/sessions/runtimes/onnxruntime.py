"""ONNX Runtime on the CPU or CUDA provider: `.onnx` and its own `.ort`."""

from __future__ import annotations

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source
from toolkit.sessions.runtimes._onnxruntime import open_session

_CUDA_OPTIONS = {
    "use_tf32": "0",  # fp32 means fp32
    # By default, each process times cuDNN's algorithms and takes the fastest, so the timed worker
    # might use another algorithm than the verified one. On an H200, this setting was also faster:
    # 229 µs instead of 242 for the reference CNN at batch size 100.
    "cudnn_conv_algo_search": "HEURISTIC",
}


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` or `.ort` file.

    Raises:
        Unsupported: The requested provider is not the one that the session got.
    """
    cuda = settings.device == "cuda"
    return open_session(
        source,
        settings,
        runtime="onnxruntime",
        provider="CUDAExecutionProvider" if cuda else "CPUExecutionProvider",
        options=_CUDA_OPTIONS if cuda else {},
    )
