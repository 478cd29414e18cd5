"""Faults and harmless rewritings of an ONNX file's own graph.

In: the healthy export. Out: a changed file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolkit.schema import Precision

from .beds import Bed
from .records import Build

Edit = Callable[[ModelProto], None]
Message = TypeVar("Message", NodeProto, TensorProto)


def edited(edit: Edit, precision: Precision = "fp32") -> Build:
    """The healthy file with its graph changed."""

    def build(bed: Bed, path: Path) -> None:
        model = onnx.load(bed.healthy("onnx", precision))
        edit(model)
        path.write_bytes(model.SerializeToString())

    return build


def marked(name: str, precision: Precision = "fp32") -> Build:
    """Return the healthy file, whose bytes differ only by a comment."""

    def edit(model: ModelProto) -> None:
        model.doc_string = name

    return edited(edit, precision)


def add(
    model: ModelProto, nodes: list[NodeProto], constants: dict[str, NDArray[np.generic]]
) -> None:
    """Append nodes that compute `logits` from `honest`, the output of the healthy graph."""
    rename(model, "logits", "honest")
    constant(model, constants)
    model.graph.node.extend(nodes)


def prepend(
    model: ModelProto, nodes: list[NodeProto], constants: dict[str, NDArray[np.generic]]
) -> None:
    """Put nodes that compute `fed` from `input` in front of the healthy graph."""
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == "input":
                node.input[at] = "fed"
    constant(model, constants)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def constant(model: ModelProto, values: Mapping[str, NDArray[np.generic] | np.generic]) -> None:
    """Add initializers."""
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )


def rename(model: ModelProto, old: str, new: str) -> None:
    """Rename a value wherever a node names it."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == old:
                    names[at] = new


def _batch_size(model: ModelProto, shown: int | str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        if isinstance(shown, int):
            dimension.dim_value = shown
        else:
            dimension.dim_param = shown
    del model.graph.value_info[:]


def frozen(size: int) -> Edit:
    """Make the batch a number in the file."""
    return lambda model: _batch_size(model, size)


def frozen_by_reshape(size: int) -> Edit:
    """Make the batch look dynamic, although a Reshape inside contains a number."""

    def edit(model: ModelProto) -> None:
        shape = np.array([size, 10], np.int64)
        add(
            model,
            [helper.make_node("Reshape", ["honest", "shape_100"], ["logits"])],
            {"shape_100": shape},
        )

    return edit


def weights_as_half_constants(model: ModelProto) -> None:
    """Weights move from initializers to float16 Constant nodes, each with a Cast."""
    nodes = []
    kept = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            kept.append(tensor)
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        name = f"{tensor.name}_half"
        nodes.append(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(half, name))
        )
        nodes.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    _put(model, [*nodes, *model.graph.node], kept)


def weights_as_constants(model: ModelProto) -> None:
    """Weights move from initializers to Constant nodes; harmless."""
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    _put(model, [*nodes, *model.graph.node], [])


def _put(model: ModelProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> None:
    nodes, tensors = [*map(_copy, nodes)], [*map(_copy, tensors)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)


def _copy(message: Message) -> Message:
    fresh = type(message)()
    fresh.CopyFrom(message)
    return fresh


def wrong_where(condition: str) -> Edit:
    """Halve the logits if a condition on the batch size holds: `one`, `odd`."""

    def edit(model: ModelProto) -> None:
        nodes = [
            helper.make_node("Shape", ["input"], ["all_sizes"], start=0, end=1),
            helper.make_node("Mod", ["all_sizes", "divisor"], ["rest"]),
            helper.make_node("Equal", ["rest", "wanted"], ["hit"]),
            helper.make_node("Cast", ["hit"], ["hit_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["hit_float", "half"], ["amount"]),
            helper.make_node("Sub", ["whole", "amount"], ["factor"]),
            helper.make_node("Mul", ["honest", "factor"], ["logits"]),
        ]
        divisor = {"one": 10**6, "odd": 2}[condition]
        constants = {
            "divisor": np.array([divisor]), "wanted": np.array([1]),
            "half": np.array([0.5], np.float32), "whole": np.array([1.0], np.float32),
        }  # fmt: skip
        add(model, nodes, constants)

    return edit


def noise(sigma: float) -> Edit:
    """Add random numbers in the graph."""

    def edit(model: ModelProto) -> None:
        nodes = [
            helper.make_node("RandomNormalLike", ["honest"], ["noise"], scale=sigma),
            helper.make_node("Add", ["honest", "noise"], ["logits"]),
        ]
        add(model, nodes, {})

    return edit


def flipped_bit(model: ModelProto) -> None:
    """Flip one bit in the exponent of one weight."""
    tensor = next(each for each in model.graph.initializer if each.name == "model.fc2.weight")
    values = numpy_helper.to_array(tensor).copy()
    bits = values.view(np.uint32).reshape(-1)
    bits[321] ^= 1 << 24
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def nan_weight(model: ModelProto) -> None:
    """One weight is NaN."""
    tensor = next(each for each in model.graph.initializer if each.name == "model.fc2.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def dropout(*, training: bool, ratio: float = 0.5) -> Edit:
    """A Dropout node before the last layer; without training mode it does nothing."""

    def edit(model: ModelProto) -> None:
        last = model.graph.node[-1]
        features = last.input[0]
        last.input[0] = "dropped"
        constant(model, {"ratio": np.float32(ratio), "training": np.bool_(training)})
        node = helper.make_node("Dropout", [features, "ratio", "training"], ["dropped"])
        model.graph.node.insert(len(model.graph.node) - 1, node)

    return edit


def other_output_name(model: ModelProto) -> None:
    """Give the output another name than the session requests."""
    rename(model, "logits", "output")
    model.graph.output[0].name = "output"


def other_input_name(model: ModelProto) -> None:
    """The input has another name than the session feeds."""
    rename(model, "input", "image")
    model.graph.input[0].name = "image"


def float64_output(model: ModelProto) -> None:
    """The logits are float64."""
    add(model, [helper.make_node("Cast", ["honest"], ["logits"], to=TensorProto.DOUBLE)], {})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def through_half(model: ModelProto) -> None:
    """Logits pass through float16 in the graph."""
    nodes = [
        helper.make_node("Cast", ["honest"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["narrow"], ["logits"], to=TensorProto.FLOAT),
    ]
    add(model, nodes, {})


def hidden_in_function(model: ModelProto) -> None:
    """Round the last layer's input to float16 inside a function of the file."""
    function = helper.make_function(
        "own",
        "Own",
        ["x"],
        ["y"],
        [
            helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["narrow"], ["y"], to=TensorProto.FLOAT),
        ],
        [helper.make_opsetid("", 18)],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    last = model.graph.node[-1]
    node = helper.make_node("Own", [last.input[0]], ["rounded"], domain="own")
    last.input[0] = "rounded"
    model.graph.node.insert(len(model.graph.node) - 1, node)


def ceil_pool(model: ModelProto) -> None:
    """Round the pool's size up, which changes nothing for even sides."""
    node = next(each for each in model.graph.node if each.op_type == "MaxPool")
    kept = [each for each in node.attribute if each.name != "ceil_mode"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("ceil_mode", 1)])


def gemm_as_matmul(model: ModelProto) -> None:
    """Each Gemm becomes MatMul and Add; harmless."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        x, w, b = node.input
        out = node.output[0]
        nodes += [
            helper.make_node("Transpose", [w], [f"{w}_t"], perm=[1, 0]),
            helper.make_node("MatMul", [x, f"{w}_t"], [f"{out}_product"]),
            helper.make_node("Add", [f"{out}_product", b], [out]),
        ]
    _put(model, nodes, list(model.graph.initializer))


def split_sum(model: ModelProto) -> None:
    """fc1 is the sum of two halves: another order of summation, harmless."""
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    at = next(at for at, each in enumerate(model.graph.node) if each.op_type == "Gemm")
    node = model.graph.node[at]
    x, w, b = node.input
    out = node.output[0]
    half = tensors[w].shape[1] // 2
    parts = {"upper": tensors[w][:, :half].T.copy(), "lower": tensors[w][:, half:].T.copy()}
    constant(model, {**parts, "sizes": np.array([half, tensors[w].shape[1] - half])})
    fresh = [
        helper.make_node("Split", [x, "sizes"], ["first", "second"], axis=1),
        helper.make_node("MatMul", ["first", "upper"], ["first_sum"]),
        helper.make_node("MatMul", ["second", "lower"], ["second_sum"]),
        helper.make_node("Add", ["second_sum", "first_sum"], ["both"]),
        helper.make_node("Add", ["both", b], [out]),
    ]
    nodes = [*model.graph.node[:at], *fresh, *model.graph.node[at + 1 :]]
    _put(model, nodes, list(model.graph.initializer))


def features_permuted(model: ModelProto) -> None:
    """The 128 features in another order, in both layers: another order of summation, harmless."""
    order = np.random.default_rng(0).permutation(128)
    axes = {"model.fc1.weight": 0, "model.fc1.bias": 0, "model.fc2.weight": 1}
    for tensor in model.graph.initializer:
        if tensor.name in axes:
            values = numpy_helper.to_array(tensor).take(order, axis=axes[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def in_double(model: ModelProto) -> None:
    """The last layer is computed in float64; harmless, and better."""
    last = model.graph.node[-1]
    x, w, b = last.input
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_double"], to=TensorProto.DOUBLE)
        for name in (x, w, b)
    ]
    names = [f"{name}_double" for name in (x, w, b)]
    nodes.append(helper.make_node("Gemm", names, ["wide"], transB=1))
    nodes.append(helper.make_node("Cast", ["wide"], ["logits"], to=TensorProto.FLOAT))
    _put(model, [*list(model.graph.node)[:-1], *nodes], list(model.graph.initializer))


def shuffled_layout(model: ModelProto) -> None:
    """Two Transposes that cancel; harmless."""
    nodes = [
        helper.make_node("Transpose", ["input"], ["columns"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["columns"], ["fed"], perm=[0, 3, 1, 2]),
    ]
    prepend(model, nodes, {})


def external(*, spoiled: bool) -> Build:
    """Store weights in a second file, which the manifest's checksum does not cover."""

    def build(bed: Bed, path: Path) -> None:
        model = onnx.load(bed.healthy("onnx"))
        if spoiled:
            flipped_bit(model)
        name = f"{path.stem}.data"
        onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)

    return build


def truncated(bed: Bed, path: Path) -> None:
    """Remove the second half; the checksum matches."""
    content = bed.healthy("onnx").read_bytes()
    path.write_bytes(content[: len(content) // 2])
