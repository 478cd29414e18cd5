"""The precision of an ONNX file reflects narrow types anywhere in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from toolkit.artifacts.formats.onnx import export
from toolkit.artifacts.manifest import check_artifact
from toolkit.artifacts.parsers.onnx import read_onnx
from toolkit.errors import ArtifactError
from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, onnxruntime, openvino

Change = Callable[[ModelProto], None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "plain.onnx"
    export(colour.request_for(path))
    return path


@pytest.fixture
def changed(plain: Path, tmp_path: Path) -> Callable[[Change], Path]:
    def make(change: Change) -> Path:
        model = onnx.load(plain)
        change(model)
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path / "changed.onnx"
        onnx.save(model, path)
        return path

    return make


def constant_nodes(model: ModelProto, kind: int) -> None:
    """Store each weight as a Constant node of type `kind`, cast to float32; no initializer is
    left."""
    nodes = []
    for item in model.graph.initializer:
        if item.data_type != TensorProto.FLOAT:
            nodes.append(helper.make_node("Constant", [], [item.name], value=item))
            continue
        values = helper.make_tensor(
            item.name, kind, item.dims, numpy_helper.to_array(item).ravel().tolist()
        )
        nodes.append(helper.make_node("Constant", [], [f"{item.name}_half"], value=values))
        nodes.append(
            helper.make_node("Cast", [f"{item.name}_half"], [item.name], to=TensorProto.FLOAT)
        )
    nodes += model.graph.node
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def cast_activations(model: ModelProto, kind: int) -> None:
    """Cast the first operator's output to type `kind`."""
    first, old = model.graph.node[0], model.graph.node[0].output[0]
    first.output[0] = "long"
    rest = list(model.graph.node)[1:]
    casts = [
        helper.make_node("Cast", ["long"], ["short"], to=kind),
        helper.make_node("Cast", ["short"], [old], to=TensorProto.FLOAT),
    ]
    del model.graph.node[:]
    model.graph.node.extend([first, *casts, *rest])


def half_constants(model: ModelProto) -> None:
    constant_nodes(model, TensorProto.FLOAT16)


def bfloat16_constants(model: ModelProto) -> None:
    constant_nodes(model, TensorProto.BFLOAT16)


def half_activations(model: ModelProto) -> None:
    cast_activations(model, TensorProto.FLOAT16)


def bfloat16_activations(model: ModelProto) -> None:
    cast_activations(model, TensorProto.BFLOAT16)


def int8_weights_by_hand(model: ModelProto) -> None:
    """A matrix in int8, cast to float32 and multiplied by its scale, without a quantised
    operator."""
    item = next(each for each in model.graph.initializer if len(each.dims) == 2)
    values = numpy_helper.to_array(item)
    scale = np.float32(np.abs(values).max() / 127)
    name = item.name
    item.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}_scale"))
    nodes = [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_long"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_long", f"{name}_scale"], [name]),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "precision", "arithmetic"),
    [
        (half_constants, "fp16", "float32 on float16 weights"),
        (half_activations, "fp16", "float16"),
        (bfloat16_constants, "bf16", "bfloat16"),
        (bfloat16_activations, "bf16", "bfloat16"),
        (int8_weights_by_hand, "int8-weights", "float32 on int8 weights"),
    ],
)
def test_narrow_types_are_detected(
    changed: Callable[[Change], Path], change: Change, precision: str, arithmetic: str
) -> None:
    contents = read_onnx(changed(change))
    assert (contents.precision, contents.arithmetic) == (precision, arithmetic)


def test_plain_file_is_fp32(plain: Path) -> None:
    contents = read_onnx(plain)
    assert (contents.precision, contents.arithmetic) == ("fp32", "float32")
    assert contents.external == ()


@pytest.mark.parametrize("runtime", [onnxruntime, openvino])
@pytest.mark.parametrize("change", [half_constants, half_activations, int8_weights_by_hand])
def test_runtime_attests_narrow_types(
    changed: Callable[[Change], Path], runtime: Any, change: Change
) -> None:
    pytest.importorskip(runtime.__name__.rpartition(".")[2])
    path = changed(change)
    session: Session = runtime.load(colour.source_of(path, "onnx"), Settings(threads=1))
    session.run(colour.IMAGES)
    found = session.attestation
    assert found.precision == read_onnx(path).precision
    assert found.evidence["precision"] == "from the file"


def sparse(kind: int) -> onnx.SparseTensorProto:
    values = helper.make_tensor("s", kind, [1], [1.0])
    return helper.make_sparse_tensor(
        values, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [2, 2]
    )


def casting_graph(kind: int) -> onnx.GraphProto:
    node = helper.make_node("Cast", ["x"], ["y"], to=kind)
    return helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", kind, [1])])


def graph_of(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [])


def model_with_function(kind: int) -> ModelProto:
    cast = helper.make_node("Cast", ["a"], ["b"], to=kind)
    function = helper.make_function(
        "own", "Short", ["a"], ["b"], [cast], [helper.make_opsetid("", 18)]
    )
    model = helper.make_model(graph_of(), functions=[function])
    return model


@pytest.mark.parametrize(
    "model",
    [
        helper.make_model(
            helper.make_graph([], "g", [], [], sparse_initializer=[sparse(TensorProto.FLOAT16)])
        ),
        helper.make_model(
            graph_of(
                helper.make_node("Constant", [], ["c"], sparse_value=sparse(TensorProto.FLOAT16))
            )
        ),
        helper.make_model(
            graph_of(
                helper.make_node(
                    "If",
                    ["c"],
                    ["y"],
                    then_branch=casting_graph(TensorProto.FLOAT),
                    else_branch=casting_graph(TensorProto.FLOAT16),
                )
            )
        ),
        model_with_function(TensorProto.FLOAT16),
        helper.make_model(
            graph_of(
                helper.make_node(
                    "ConstantOfShape",
                    ["n"],
                    ["c"],
                    value=helper.make_tensor("v", TensorProto.FLOAT16, [1], [1.0]),
                )
            )
        ),
    ],
    ids=["sparse initializer", "sparse constant", "branch", "function", "filled"],
)
def test_float16_is_detected_anywhere_in_the_file(tmp_path: Path, model: ModelProto) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path).precision == "fp16"


@pytest.mark.parametrize("missing", [False, True])
def test_tensors_in_another_file_are_refused(plain: Path, tmp_path: Path, missing: bool) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(plain),
        path,
        save_as_external_data=True,
        location="model.data",
        size_threshold=0,
    )
    if missing:
        (tmp_path / "model.data").unlink()
    assert read_onnx(path).external == ("model.data",)
    record = colour.source_of(path, "onnx").artifact
    with pytest.raises(ArtifactError, match=r"in other files \(model\.data\).*expected one file"):
        check_artifact(path, record)


def test_files_that_are_not_onnx_are_left_to_the_runtime(tmp_path: Path) -> None:
    """The row of the runtime says what is wrong."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a\xff")
    check_artifact(path, colour.source_of(path, "onnx").artifact)


def with_group(content: bytes, *, ends: bool = True) -> bytes:
    """Add an unknown field of the old kind, a group (number 1000), which every reader skips."""
    start, end = b"\xc3\x3e", b"\xc4\x3e"
    return start + b"\x08\x01" + (end if ends else b"") + content


@pytest.mark.parametrize("location", ["model.data", "../model.data", "/etc/passwd"])
def test_external_data_is_found_behind_a_group(plain: Path, tmp_path: Path, location: str) -> None:
    """ONNX Runtime reads such a file, so it may not hide its other files from the check."""
    model = onnx.load(plain)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "model.onnx"
    path.write_bytes(with_group(model.SerializeToString()))
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data
    assert read_onnx(path).external == (location,)
    with pytest.raises(ArtifactError, match=f"keeps tensors in other files .{location}."):
        check_artifact(path, colour.source_of(path, "onnx").artifact)


def test_a_group_without_an_end_is_not_a_protocol_buffer(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (with_group(b"", ends=False), b"\xc4\x3e", b"\xc3\x3e\xcc\x3e"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="group"):
            read_onnx(path)


def nested_graphs(depth: int) -> bytes:
    """A model of graphs inside graphs, without their other fields."""

    def field(number: int, content: bytes) -> bytes:
        size, digits = len(content), bytearray()
        while size > 0x7F:
            digits.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([number << 3 | 2]) + bytes([*digits, size]) + content

    content = b""
    for _ in range(depth):  # graph.node → node.attribute → attribute.g
        content = field(1, field(5, field(6, content)))
    return field(7, content)


def test_graphs_nested_too_deeply_are_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(nested_graphs(30))
    assert read_onnx(path).external == ()
    path.write_bytes(nested_graphs(5000))
    with pytest.raises(ValueError, match="nested too deeply"):
        read_onnx(path)
    check_artifact(path, colour.source_of(path, "onnx").artifact)  # the runtime says so in its row
