"""Comparison of an ONNX file with a fresh export: weights, graph, quantisation.

In: the file, the model, inputs. Out: a `Cause`. Runs in a separate process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.inputs import inputs_of
from toolkit.parity.causes.graphs import Node, compare_graphs
from toolkit.parity.causes.quantised import Quantised, Range, compare_quantised
from toolkit.parity.causes.tensors import compare_tensors
from toolkit.schema import Cause, Inputs, InputSpec, Precision

if TYPE_CHECKING:
    from torch import nn

_PREFIX = "model."
_QUANTISED = "_quantized"
_SAME = 1e-5  # of a constant of the normalisation


@dataclass(kw_only=True, eq=False)
class Contents:
    """The content of a file: its operators, its float weights, and its quantised values.

    `ranges` has the smallest and the largest value of each quantiser of activations, by the name of
    the value in the graph.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    quantised: dict[str, Quantised] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def rounding_in_file(path: Path, tensors: dict[str, NDArray[np.floating]]) -> Cause | None:
    """Return the cause if the weights are the checkpoint's rounded `tensors`; this needs no fresh
    export.

    Other differences may come from what the exporter folds into the weights.
    """
    import onnx

    cause = compare_tensors(tensors, read(onnx.load(path, load_external_data=False)).tensors)
    return cause if cause is not None and cause.kind.startswith("weights rounded") else None


def cause_in_file(
    path: Path,
    model: nn.Module,
    images: NDArray[np.uint8],
    spec: InputSpec,
    precision: Precision,
    *,
    embedded: bool,
) -> Cause | None:
    """Return the cause found in the file; None if the file is what the exporter writes.

    `images` are raw. With `embedded`, the file normalises them itself, by constants that are
    compared with those of `spec`.
    """
    import onnx

    inputs = inputs_of(images, spec, embedded=embedded)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch, "fresh.onnx")
        _export(model, inputs, spec, fresh, precision)
        found = read(onnx.load(path, load_external_data=False))
        expected = read(onnx.load(fresh))
        other = _other_normalisation(expected.tensors, found.tensors)
        if other is not None:
            return other
        if not found.quantised:
            return compare_tensors(expected.tensors, found.tensors) or compare_graphs(
                expected.nodes, found.nodes
            )
        seen = _values(fresh, inputs, list(found.ranges))
    ranges = {
        _short(name): Range(low=low, high=high, seen=seen[name])
        for name, (low, high) in found.ranges.items()
        if name in seen
    }
    return compare_tensors(expected.tensors, found.tensors) or compare_quantised(
        expected.tensors, found.quantised, ranges
    )


def _other_normalisation(
    expected: Mapping[str, NDArray[np.floating]], found: Mapping[str, NDArray[np.floating]]
) -> Cause | None:
    """Return the cause if the file normalises by another mean or std than its checkpoint."""
    from toolkit.artifacts.embedded import PIXEL_CONSTANTS

    names = [each for each in PIXEL_CONSTANTS if each in expected and each in found]
    if all(np.allclose(expected[each], found[each], rtol=_SAME, atol=0) for each in names):
        return None
    ours, theirs = (
        " and ".join(
            f"{each.removeprefix('pixel_')} {', '.join(f'{value:.4g}' for value in of[each].flat)}"
            for each in names
        )
        for of in (expected, found)
    )
    return Cause(
        kind="other normalisation",
        text=f"The file normalises by {theirs}, the input spec of its checkpoint has {ours}.",
        action="Export the checkpoint again with toolkit export --embed-preprocessing --force.",
    )


def _export(
    model: nn.Module, inputs: Inputs, spec: InputSpec, path: Path, precision: Precision
) -> None:
    """Make a fresh export; for quantised precisions, the input of the quantiser."""
    import torch

    from toolkit.artifacts.embedded import WithPreprocessing
    from toolkit.artifacts.formats import Request, find_format, load_exporter
    from toolkit.checkpoints.model import NamedClassifier

    float_kind: Precision = precision if precision in ("fp32", "fp16") else "fp32"
    plain = path if float_kind == precision else path.with_name("plain.onnx")
    embedded = inputs.dtype == np.uint8
    whole = WithPreprocessing(model, spec) if embedded else NamedClassifier(model)
    request = Request(
        model=whole.eval(),
        example=torch.from_numpy(inputs[:2]),
        path=plain,
        precision=float_kind,
        calibration=inputs[:0],
        isas=None,
    )
    load_exporter(find_format("onnx")).export(request)
    if plain != path:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(plain), str(path), skip_symbolic_shape=True)


def read(model: Any) -> Contents:
    """Read the contents of an `onnx.ModelProto`."""
    from onnx import numpy_helper

    contents = Contents()
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            contents.quantised.update(_dequantised(node, tensors))
        elif node.op_type == "QuantizeLinear" and node.input[0] not in tensors:
            contents.ranges.update(_range(node, tensors))
        contents.nodes.append(_node(node, tensors))
    contents.tensors = {
        _short(name): values.astype(np.float32)
        for name, values in tensors.items()
        if values.dtype in (np.float32, np.float16) and values.ndim > 0
    }
    return contents


def _node(node: Any, tensors: dict[str, NDArray[Any]]) -> Node:
    from onnx import helper

    attributes = {}
    for each in node.attribute:
        value = helper.get_attribute_value(each)
        plain = isinstance(value, int | float | list | bytes)
        attributes[each.name] = str(value) if plain else type(value).__name__
    weights = [_short(name) for name in node.input if name in tensors and tensors[name].ndim]
    return Node(operator=node.op_type, attributes=attributes, weights=tuple(weights))


def _dequantised(node: Any, tensors: dict[str, NDArray[Any]]) -> Iterator[tuple[str, Quantised]]:
    stored, steps = tensors[node.input[0]], tensors.get(node.input[1])
    if steps is None:
        return
    zero = tensors.get(node.input[2]) if len(node.input) > 2 else None
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    shape = [1] * stored.ndim
    if steps.ndim == 1 and steps.size > 1:
        shape[axis] = steps.size
    step = steps.astype(np.float64).reshape(shape if steps.size > 1 else (1,) * stored.ndim)
    middle = 0 if zero is None else zero.astype(np.float64).reshape(step.shape)
    values = (stored.astype(np.float64) - middle) * step
    yield _short(node.input[0]), Quantised(values=values, step=step, levels=len(np.unique(stored)))


def _range(
    node: Any, tensors: dict[str, NDArray[Any]]
) -> Iterator[tuple[str, tuple[float, float]]]:
    step, zero = tensors.get(node.input[1]), tensors.get(node.input[2])
    if step is None or zero is None or step.size != 1 or zero.dtype not in (np.uint8, np.int8):
        return
    limits = np.iinfo(zero.dtype)
    low, high = ((limit - float(zero)) * float(step) for limit in (limits.min, limits.max))
    yield node.input[0], (low, high)


def _values(path: Path, inputs: Inputs, names: list[str]) -> dict[str, NDArray[np.floating]]:
    """Return what a float file computes for some of its values, if it has them."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in names if name in made]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    seen: dict[str, NDArray[Any]] = {model.graph.input[0].name: inputs}
    if wanted:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {model.graph.input[0].name: inputs}
        seen |= dict(zip(wanted, session.run(wanted, given), strict=True))
    return seen


def _short(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_QUANTISED)
