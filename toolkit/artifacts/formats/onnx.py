"""ONNX: one self-contained file, in float32, float16, or quantised by ONNX Runtime's tools.

fp16: kernels and matrices are stored in float16 and cast to float32 when the file is loaded. The
file is half as large, and computes the same as float32 with the rounded weights, at the same speed,
in every runtime. With the whole graph in float16, ONNX Runtime on an x86 CPU gives the same bits 27
% slower (batch 100, one thread, median of alternating calls), and tract refuses the file.

int8: static, uint8 activations and int8 weights with one scale per channel, as pairs of
QuantizeLinear and DequantizeLinear. int8-dynamic: ranges of activations are measured in each call;
MatMul and Gemm only, because with dynamic convolutions (ConvInteger) ONNX Runtime took 3 to 4 times
as long as float32. The range is that of the whole batch, so the logits of an image depend slightly
on the other images. In both, the layer that produces the logits stays in float32: quantised, it
moved them 18 (static) and 3 (dynamic) times as far.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolkit.artifacts.embedded import PIXEL_CONSTANTS
from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.artifacts.formats._tracing import without_logs
from toolkit.artifacts.parsers.onnx import read_onnx
from toolkit.artifacts.rounding.number_formats import error_of_evaluation, images_per_call
from toolkit.artifacts.rounding.onnx_file import evaluate, measure
from toolkit.files.scratch import temporary_folder
from toolkit.schema import TRAITS, ExpectedError, Inputs

# Otherwise ONNX Runtime, which quantises, sends telemetry about each session (seen in 1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_PRODUCTS = {"Gemm", "MatMul"}


def export(request: Request) -> Written:
    """Write an `.onnx` file.

    Raises:
        ValueError: The model has nothing to quantise or round in this precision, or weights that
            are too large for it.
    """
    if request.precision == "fp32":
        opset = write_onnx(request.model, request.example, request.path, metadata=request.metadata)
        return Written(opset=opset)
    with temporary_folder("onnx") as scratch:
        plain, changed = scratch / "fp32.onnx", scratch / "changed.onnx"
        opset = write_onnx(request.model, request.example, plain)
        isas = None
        if request.precision == "fp16":
            onnx.save(_halve(onnx.load(plain)), changed)
        else:
            narrow = request.isas is None or "avx2" in request.isas
            isas = None if narrow else request.isas
            with without_logs():  # about each vector of weights
                _quantise(plain, changed, request, narrow=narrow)
        _publish(changed, request)
        expected = _expected_error(plain, request)
    return Written(opset=opset, isas=isas, expected_error=expected)


def _expected_error(plain: Path, request: Request) -> ExpectedError | None:
    """Return the expected error. For int8, it is measured from the file alone; int8-dynamic is
    compared with the float32 file."""
    if request.measured is None or not TRAITS[request.precision].quantised:
        return None
    if request.precision == "int8":
        return measure(request.path, request.measured)
    logits, reference = (
        evaluate(onnx.load(path), request.measured, threads=1) for path in (request.path, plain)
    )
    method = "ONNX Runtime without optimisations compared with the float32 file"
    return error_of_evaluation(logits, reference, method=method)


def _halve(model: ModelProto) -> ModelProto:
    """Store kernels and matrices in float16, each cast to float32 under its old name.

    Vectors (biases, normalisation, the mean of pixels) stay in float32: they are small, and so may
    their values be.
    """
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        if weight.name in PIXEL_CONSTANTS:
            continue
        name, values = weight.name, numpy_helper.to_array(weight)
        largest = float(np.abs(values).max(initial=0))
        if largest > float(np.finfo(np.float16).max):
            raise ValueError(
                f"weight {name} has a value of {largest:g}, but the largest float16 is 65504"
            )
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(
            helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_cast", to=TensorProto.FLOAT)
        )
    _replace_nodes(model.graph, [*casts, *model.graph.node])
    return model


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _quantise(plain: Path, quantised: Path, request: Request, *, narrow: bool) -> None:
    """Quantise with ONNX Runtime; `narrow` weights have 7 bits, so that AVX2's 16-bit sums do not
    overflow."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.shape_inference import quant_pre_process

    dynamic = request.precision == "int8-dynamic"
    prepared = plain.with_name("prepared.onnx")
    # Folds batch normalisation into convolutions, among other things.
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    if dynamic:  # it would do this itself, and change the names
        ONNXModel(model).replace_gemm_with_matmul()
        del model.graph.value_info[
            :
        ]  # up to 1.31 it keeps the old shapes of weights that it transposed
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"unnamed_{number}"
    spared = _layer_of_logits(model.graph)
    if dynamic and not _PRODUCTS & {
        node.op_type for node in model.graph.node if node.name not in spared
    }:
        spared = []  # the only layer: quantising it is better than nothing
    onnx.save(model, prepared)
    common: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": narrow,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": spared,
    }
    if dynamic:
        quantize_dynamic(prepared, quantised, op_types_to_quantize=sorted(_PRODUCTS), **common)
        return
    quantize_static(
        prepared,
        quantised,
        _Batches(request.calibration, model.graph.input[0].name),
        activation_type=QuantType.QUInt8,
        **common,
    )


def _layer_of_logits(graph: GraphProto) -> list[str]:
    """Return the names of the last convolution or matrix product, and of what follows it, on every
    path to the output."""
    makers = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    waiting = [graph.output[0].name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.append(node.name)
        if node.op_type not in _LAYERS:
            waiting.extend(node.input)
    return names


class _Batches:
    """Calibration inputs for ONNX Runtime's quantiser: one batch per call, then None."""

    def __init__(self, inputs: Inputs, name: str) -> None:
        size = images_per_call(inputs)  # it does not change the ranges
        starts = range(0, len(inputs), size)
        self._batches = ({name: inputs[start : start + size]} for start in starts)

    def __iter__(self) -> Iterator[dict[str, Inputs]]:
        return self

    def __next__(self) -> dict[str, Inputs]:
        return next(self._batches)

    def get_next(self) -> dict[str, Inputs] | None:
        return next(self._batches, None)


def _publish(changed: Path, request: Request) -> None:
    """Check the file, remove what is not needed to run it, and publish it."""
    found = read_onnx(changed).precision
    if found != request.precision:
        raise ValueError(
            f"nothing in this model could be written in {request.precision}: everything is "
            f"{found} (the layer that produces the logits does not count)"
        )
    model = onnx.load(changed)
    used = {node.domain for node in model.graph.node}
    unused = [opset for opset in model.opset_import if opset.domain and opset.domain not in used]
    for (
        opset
    ) in unused:  # ONNX Runtime lists all opsets that it knows, but other runtimes refuse some
        model.opset_import.remove(opset)
    helper.set_model_props(model, dict(request.metadata))
    onnx.checker.check_model(model, full_check=True)
    request.path.write_bytes(model.SerializeToString())
