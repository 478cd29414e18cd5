"""ONNX: one self-contained file, in float32, float16, or quantised by ONNX Runtime's tools."""

from __future__ import annotations

from toolkit.formats import Request, Written
from toolkit.onnx_export import write_onnx


def export(request: Request) -> Written:
    """Write an `.onnx` file."""
    return Written(opset=write_onnx(request.model, request.example, request.path))
