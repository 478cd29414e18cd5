"""Summaries of other people's exceptions: the reason, not the place in their C++ sources."""

from __future__ import annotations

import pytest

from toolkit.errors import headline

# Messages as OpenVINO 2026.4, torch 2.14 and ONNX Runtime 1.32 raised them.
MESSAGES = [
    (
        "Exception from src/inference/src/cpp/core.cpp:84:\n"
        "Check 'false' failed at "
        "src/frontends/common_translators/src/unconverted_ops_report.cpp:151:\n"
        "FrontEnd API failed with OpConversionFailure:\nModel wasn't fully converted.\nSummary:\n"
        "-- No conversion rule found for operations: com.x.Foo\n\n",
        "No conversion rule found for operations: com.x.Foo",
    ),
    (
        "Exception from src/inference/src/cpp/core.cpp:84:\n"
        "Check 'false' failed at "
        "src/frontends/common_translators/src/unconverted_ops_report.cpp:151:\n"
        "FrontEnd API failed with OpConversionFailure:\n"
        "Model wasn't fully converted. Failed operations detailed log:\n"
        "-- Reshape-18 with a message:\n"
        "While validating ONNX node '<Node(Reshape): logits>': Check "
        "'shape_pattern_et.is_integral_number()' failed at src/core/src/op/reshape.cpp:37:\n"
        "While validating node 'opset1::Reshape Reshape_16 (opset1::Parameter input[0]:f32[?,3]) "
        "-> (dynamic[...])' with friendly_name 'Reshape_16':\n"
        "PartialShape pattern must be an integral number.\n",
        "Reshape-18 with a message: While validating ONNX node '<Node(Reshape): logits>': "
        "PartialShape pattern must be an integral number.",
    ),
    (
        "Exception from src/inference/src/cpp/core.cpp:84:\n"
        "Exception from src/inference/src/model_reader.cpp:148:\n"
        'Unable to read the model: "garbage.onnx" Please check that model format: ".onnx" is '
        "supported and the model is correct.\n",
        'Unable to read the model: "garbage.onnx" Please check that model format: ".onnx" is '
        "supported and the model is correct.",
    ),
    (
        "[enforce fail at inline_container.cc:145] . PytorchStreamReader failed reading zip "
        "archive: failed finding central directory",
        "PytorchStreamReader failed reading zip archive: failed finding central directory",
    ),
    (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from x.onnx failed:/onnxruntime_src/"
        "onnxruntime/core/graph/model.cc:180 onnxruntime::Model::Model(onnx::ModelProto&&, const "
        "PathString&, const Logging::Logger&) Unsupported model IR version: 99",
        "[ONNXRuntimeError] : 1 : FAIL : Load model from x.onnx failed:Unsupported model IR "
        "version: 99",
    ),
    (
        "The following operation failed in the TorchScript interpreter.\n"
        "Traceback of TorchScript (most recent call last):\n"
        "net.py(3): forward\n"
        "RuntimeError: input size is not divisible by the output size is not supported yet\n",
        "input size is not divisible by the output size is not supported yet",
    ),
    ("no such operator", "no such operator"),
    ("two lines\nof text", "two lines"),
    ("it needs:\n\nan operator", "it needs: an operator"),
    ("at net.py:12: no", "at net.py:12: no"),
    ("", "no message"),
    ("Exception from a.cpp:1:\n", "no message"),
]


@pytest.mark.parametrize(("message", "reason"), MESSAGES)
def test_headline_has_the_reason(message: str, reason: str) -> None:
    assert headline(RuntimeError(message)) == f"RuntimeError: {reason}"
