"""OpenVINO's IR: a folder with `model.xml`, the graph, and `model.bin`, the weights.

fp16: weights are stored in float16; the device chooses the arithmetic. int8: NNCF measures the
ranges; weights have one scale per channel, and the layer that produces the logits stays in float32.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.artifacts.rounding.openvino_file import measure
from toolkit.schema import TRAITS

# OpenVINO and NNCF send telemetry unless this package is missing (seen in 2026.4.1 and 3.4.0). Here
# it is hidden, so no socket is opened and no file is written to the home folder.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_LAYERS = {
    *("MatMul", "Convolution", "GroupConvolution"),
    *("ConvolutionBackpropData", "GroupConvolutionBackpropData"),
}
_PREPROCESSING = {
    *("Convert", "Divide", "Subtract", "Multiply", "Add"),
    *("Slice", "StridedSlice", "Gather", "Concat"),
}


def export(request: Request) -> Written:
    """Write the folder, through ONNX.

    Raises:
        ValueError: int8, and no layer except the one that produces the logits could be quantised.
    """
    import openvino

    request.path.mkdir()
    isas = None
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch, "fp32.onnx")
        write_onnx(request.model, request.example, plain)
        model = openvino.Core().read_model(plain)
        if request.precision == "int8":
            narrow = request.isas is None or "avx2" in request.isas
            isas = None if narrow else request.isas
            model = _quantise(model, request, narrow=narrow)
        for name, value in request.metadata.items():  # nested in the file, under `toolkit`
            model.set_rt_info(value, name.split("."))
        openvino.save_model(
            model, request.path / "model.xml", compress_to_fp16=request.precision == "fp16"
        )
    expected = None
    if TRAITS[request.precision].quantised and request.measured is not None:
        expected = measure(request.path / "model.xml", request.measured)
    return Written(isas=isas, expected_error=expected)


def _quantise(model: Any, request: Request, *, narrow: bool) -> Any:
    """Quantise with NNCF; `narrow` weights have 7 bits, so that AVX2's 16-bit sums do not
    overflow."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    nncf.set_log_level(logging.ERROR)
    fix = OverflowFix.ENABLE if narrow else OverflowFix.DISABLE
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        quantised = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in request.calibration]),
            subset_size=len(request.calibration),
            ignored_scope=nncf.IgnoredScope(
                names=[*_layer_of_logits(model), *_preprocessing(model)]
            ),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
        )
    if not any(node.get_type_name() == "FakeQuantize" for node in quantised.get_ops()):
        raise ValueError("no layer could be quantised, except the one that produces the logits")
    return quantised


def _preprocessing(model: Any) -> list[str]:
    """Return the names of the operators that scale and normalise bytes; none if the input is
    float32. They stay in float32, so the first layer gets the same values as without them."""
    (given,) = model.inputs
    if given.get_element_type().get_type_name() != "u8":
        return []
    names: list[str] = []
    waiting = list(given.get_target_inputs())
    while waiting:
        node = waiting.pop().get_node()
        name = node.get_friendly_name()
        if node.get_type_name() in _PREPROCESSING and name not in names:
            names.append(name)
            waiting.extend(each for output in node.outputs() for each in output.get_target_inputs())
    return names


def _layer_of_logits(model: Any) -> list[str]:
    """Return the names of the last convolution or matrix product, and of what follows it, on every
    path to the output."""
    names: list[str] = []
    waiting = [model.output(0).get_node().input_value(0).get_node()]
    while waiting:
        node = waiting.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind in ("Constant", "Parameter") or name in names:
            continue
        names.append(name)
        if kind not in _LAYERS:
            waiting.extend(value.get_node() for value in node.input_values())
    return names
