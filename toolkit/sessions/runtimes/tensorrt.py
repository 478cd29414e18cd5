"""TensorRT through ONNX Runtime's provider: unchanged `.onnx` files; not yet run on a GPU.

An engine is built at the first call of each larger batch, which takes seconds, and kept in memory.
"""

from __future__ import annotations

import os

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source
from toolkit.sessions.runtimes._onnxruntime import open_session

# fp32 means fp32: TensorRT takes TF32 unless this stands before its first session; its provider
# has no option for it.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file completely in TensorRT.

    Raises:
        Unsupported: the provider is not there, or not the one that the session got.
    """
    return open_session(
        source,
        settings,
        runtime="tensorrt",
        provider="TensorrtExecutionProvider",
        options={},  # float16 and engines on disk are off by default
        whole=True,
    )
