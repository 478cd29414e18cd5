"""ONNX Runtime's own format, `.ort`, for its mobile and minimal builds, in float32."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._onnx import write_onnx

# Otherwise ONNX Runtime sends telemetry about each session (seen in 1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def export(request: Request) -> Written:
    """Write an `.ort` file, through ONNX.

    It contains only optimisations that are valid on every CPU (`extended`: layers fused with their
    activations). The next level would write the memory layout of this machine into the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(request.path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch, "fp32.onnx")
        opset = write_onnx(request.model, request.example, plain, metadata=request.metadata)
        onnxruntime.InferenceSession(
            str(plain), sess_options=options, providers=["CPUExecutionProvider"]
        )
    return Written(opset=opset)
