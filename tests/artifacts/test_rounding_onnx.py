"""The expected error of an int8 ONNX file, measured from the file: compared with formulas and
faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CHECKPOINT
from faults.int8 import INT8_FAULTS, NEED_NOT_BE_CAUGHT
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolkit.artifacts.export import export
from toolkit.artifacts.rounding.expected_error import find_expected_error
from toolkit.artifacts.rounding.number_formats import MEASURED_IMAGES as IMAGES
from toolkit.artifacts.rounding.onnx_file import evaluate, measure
from toolkit.artifacts.rounding.onnx_pairs import take_apart
from toolkit.checkpoints.storage import load_model
from toolkit.data import load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.errors import Crashed
from toolkit.files import sha256_of
from toolkit.schema import Artifact, ExpectedError

RATIO = 2.0
RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.standard_normal((64, 10)).astype(np.float32)
INPUTS = RANDOM.uniform(-2, 2, (IMAGES, 1, 8, 8)).astype(np.float32)


def model_of(
    nodes: Sequence[NodeProto], **constants: NDArray[np.generic] | np.generic
) -> ModelProto:
    """`input` `[N,1,8,8]` → `x` `[N,64]` → these nodes → `logits` `[N,10]`."""
    flat = helper.make_node("Flatten", ["input"], ["x"])
    graph = helper.make_graph(
        [flat, *nodes],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(kind: str, inputs: str, output: str, **attributes: int) -> NodeProto:
    made = helper.make_node(kind, inputs.split(), [output])
    made.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return made


def measured(model: ModelProto, folder: Path) -> ExpectedError:
    onnx.save(model, folder / "model.onnx")
    found = measure(folder / "model.onnx", INPUTS)
    assert found is not None
    assert found.images == IMAGES
    assert found.rms < found.largest < 20 * found.rms
    return found


def test_rounded_activations_move_logits_like_uniform_noise(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", "x step zero", "x_int"),
        node("DequantizeLinear", "x_int step zero", "x_float"),
        node("MatMul", "x_float matrix", "logits"),
    ]
    step = np.float32(4 / 255)
    model = model_of(nodes, matrix=MATRIX, step=step, zero=np.uint8(128))
    norms = np.square(MATRIX).sum(0)
    expected = step / np.sqrt(12) * np.sqrt(norms.mean())
    assert measured(model, tmp_path).rms == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kept_as", ["integers", "floats"])
def test_rounded_weights_move_logits_like_uniform_noise(kept_as: str, tmp_path: Path) -> None:
    """One step per output; floats after a QuantizeLinear count as its integers."""
    steps = np.abs(MATRIX).max(0) / np.float32(127)
    steps[0] *= 20
    nodes = [node("DequantizeLinear", "w steps zeros", "w_float", axis=1)]
    weights: NDArray[np.generic] = np.rint(MATRIX / steps).astype(np.int8)
    if kept_as == "floats":
        nodes = [
            node("QuantizeLinear", "w steps zeros", "w_int", axis=1),
            node("DequantizeLinear", "w_int steps zeros", "w_float", axis=1),
        ]
        weights = MATRIX
    nodes.append(node("MatMul", "x w_float", "logits"))
    model = model_of(nodes, w=weights, steps=steps, zeros=np.zeros(10, np.int8))
    expected = np.sqrt(np.square(steps).mean() / 12 * np.square(INPUTS).sum((1, 2, 3)).mean())
    assert measured(model, tmp_path).rms == pytest.approx(expected, rel=0.05)
    graph = take_apart(model)
    assert graph is not None
    np.testing.assert_array_equal(graph.weights[0].values, np.rint(MATRIX / steps) * steps)


def test_blockwise_weights_have_one_step_per_block(tmp_path: Path) -> None:
    steps = np.ones((4, 10), np.float32)
    steps[1] = 3
    nodes = [
        node("DequantizeLinear", "w steps", "w_float", axis=0, block_size=16),
        node("MatMul", "x w_float", "logits"),
    ]
    graph = take_apart(model_of(nodes, w=np.ones((64, 10), np.int8), steps=steps))
    assert graph is not None
    np.testing.assert_array_equal(graph.weights[0].values[:, 0], [1] * 16 + [3] * 16 + [1] * 32)


def test_a_relu_inside_a_pair_is_kept() -> None:
    """Values quantised from 0 on: negative values become 0, and the file no longer has a ReLU."""
    nodes = [
        node("MatMul", "x matrix", "y"),
        node("QuantizeLinear", "y step zero", "y_int"),
        node("DequantizeLinear", "y_int step zero", "logits"),
    ]
    model = model_of(nodes, matrix=MATRIX, step=np.float32(0.5), zero=np.uint8(0))
    graph = take_apart(model)
    assert graph is not None
    product = INPUTS.reshape(IMAGES, 64) @ MATRIX
    plain = evaluate(graph.plain(), INPUTS, threads=1)
    np.testing.assert_allclose(plain, np.maximum(product, 0), atol=1e-4)
    rounded = evaluate(graph.rounded(), INPUTS, threads=1)
    np.testing.assert_allclose(rounded, np.rint(plain / 0.5) * 0.5, atol=0.5)
    assert np.abs(rounded - plain).max() <= 0.2501


def test_fixed_batch_is_padded(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", "w step", "w_float"),
        node("MatMul", "x w_float", "logits"),
    ]
    model = model_of(nodes, w=np.ones((64, 10), np.int8), step=np.float32(0.1))
    free = measured(model, tmp_path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    assert measured(model, tmp_path).rms == pytest.approx(free.rms)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", "x matrix", "logits")],
        [
            node("MatMulInteger", "w w", "product"),
            node("MatMul", "x matrix", "logits"),
        ],
        [
            node("QuantizeLinear", "x step zero", "x_int"),
            node("Identity", "x_int", "x_same"),
            node("DequantizeLinear", "x_same step zero", "x_float"),
            node("MatMul", "x_float matrix", "logits"),
        ],
    ],
    ids=["nothing", "integers", "something between"],
)
def test_quantised_operators_without_pairs_give_no_expected_error(
    nodes: list[NodeProto], tmp_path: Path
) -> None:
    square = np.ones((2, 2), np.uint8)
    model = model_of(nodes, matrix=MATRIX, w=square, step=np.float32(0.1), zero=np.uint8(9))
    onnx.save(model, tmp_path / "model.onnx")
    assert measure(tmp_path / "model.onnx", INPUTS) is None


class Int8Export:
    """The reference CNN's int8 file, and images with the checkpoint's own logits."""

    def __init__(self, folder: Path) -> None:
        import torch

        done = export(CHECKPOINT, out=folder, formats=["onnx"], precisions=["int8"])
        (self.artifact,) = done.artifacts
        self.path = folder / self.artifact.path
        model, record = load_model(CHECKPOINT)
        dataset = load_dataset("test")
        rows = np.linspace(0, len(dataset) - 1, IMAGES).astype(int)
        self.inputs = normalise(dataset.images[rows], record.input)
        with torch.inference_mode():
            self.logits = model(torch.from_numpy(self.inputs)).numpy()

    def ratio(self, model: ModelProto, path: Path) -> float:
        """The actual error of the file divided by the expected one."""
        onnx.save(model, path)
        expected = measure(path, self.inputs)
        assert expected is not None
        error = evaluate(model, self.inputs, threads=1) - self.logits
        return float(np.sqrt(np.mean(np.square(error)))) / expected.rms


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Int8Export:
    return Int8Export(tmp_path_factory.mktemp("int8"))


def test_healthy_export_has_the_expected_error(int8: Int8Export, tmp_path: Path) -> None:
    assert 0.5 < int8.ratio(onnx.load(int8.path), tmp_path / "healthy.onnx") < RATIO / 1.5


@pytest.mark.parametrize("name", INT8_FAULTS)
def test_fault_has_an_error_far_beyond_the_expected_one(
    name: str, int8: Int8Export, tmp_path: Path
) -> None:
    model = onnx.load(int8.path)
    INT8_FAULTS[name](model)
    ratio = int8.ratio(model, tmp_path / "faulty.onnx")
    assert (ratio > 1.5 * RATIO) is (name not in NEED_NOT_BE_CAUGHT)


def test_recorded_error_applies_only_to_its_own_bytes(int8: Int8Export, tmp_path: Path) -> None:
    recorded = ExpectedError(
        rms=7.0, largest=8.0, images=9, method="so", sha256=int8.artifact.sha256
    )
    artifact = replace(int8.artifact, expected_error=recorded)
    assert find_expected_error(int8.path, artifact, int8.inputs) == recorded
    path = tmp_path / "other.onnx"
    path.write_bytes(int8.path.read_bytes() + b"\xfa\x01\x00")
    other = replace(artifact, sha256=sha256_of(path))
    found = find_expected_error(path, other, int8.inputs)
    fresh = measure(int8.path, int8.inputs)
    assert fresh is not None
    assert found == replace(fresh, sha256=other.sha256)


def test_other_formats_have_no_expected_error_without_a_record(int8: Int8Export) -> None:
    for artifact in (
        replace(int8.artifact, format="litert", expected_error=None),
        replace(int8.artifact, precision="fp32", expected_error=None),
    ):
        assert find_expected_error(int8.path, artifact, int8.inputs) is None


def test_damaged_file_is_named(int8: Int8Export, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(int8.path.read_bytes()[:1000])
    artifact: Artifact = replace(int8.artifact, expected_error=None)
    with pytest.raises(Crashed, match=r"cannot measure the expected error of cut\.onnx: "):
        find_expected_error(path, artifact, int8.inputs)
