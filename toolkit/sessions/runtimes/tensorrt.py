"""TensorRT through ONNX Runtime's provider: unchanged `.onnx` files; not yet run on a GPU.

An engine is built at the first call of each larger batch, which takes seconds, and kept in memory.
The provider has no option against TF32; the variable in `toolkit.processes.numerics` prevents it.
"""

from __future__ import annotations

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source
from toolkit.sessions.runtimes._onnxruntime import open_session


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file completely in TensorRT.

    Raises:
        Unsupported: The provider is missing, or is not the one that the session got.
    """
    return open_session(
        source,
        settings,
        runtime="tensorrt",
        provider="TensorrtExecutionProvider",
        options={},  # float16 and engines on disk are off by default
        whole=True,
    )
