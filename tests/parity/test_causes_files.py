"""Differences between a file and its checkpoint are named: weights, graph, quantisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.parity.causes.graphs import Node, compare_graphs
from toolkit.parity.causes.quantised import Quantised, Range, compare_quantised
from toolkit.parity.causes.stored import find_tensors
from toolkit.parity.causes.tensors import compare_tensors

Array = NDArray[np.float32]
RANDOM = np.random.default_rng(0)
CONV = RANDOM.standard_normal((16, 8, 3, 3)).astype(np.float32)
MATRIX = RANDOM.standard_normal((10, 128)).astype(np.float32)
BIAS = RANDOM.standard_normal(10).astype(np.float32)
WEIGHTS = {"conv.weight": CONV, "fc.weight": MATRIX, "fc.bias": BIAS}


def among_first(weights: NDArray[np.float32], count: int = 64) -> NDArray[np.bool_]:
    """Return which values are among the first `count`."""
    return (np.arange(weights.size) < count).reshape(weights.shape)


def put(values: Array, at: tuple[int, ...], by: float) -> Array:
    changed = values.copy()
    changed[at] *= by
    return changed


def order(first: int, second: int, size: int) -> list[int]:
    found = list(range(size))
    found[first], found[second] = second, first
    return found


def pruned(values: Array) -> Array:
    return np.where(np.abs(values) < np.quantile(np.abs(values), 0.3), 0, values)


def to_bits(values: Array, bits: int) -> Array:
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(values / step) * step, np.float32)


def cut(values: Array, bits: int) -> Array:
    return (values.view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(np.float32)


def noisy(values: Array) -> Array:
    share = 1e-3 * np.random.default_rng(1).uniform(-1, 1, values.shape)
    return np.asarray(values * (1 + share), np.float32)


WAYS: dict[str, tuple[str, Callable[[Array], Array], str, str]] = {
    "one value": ("fc.weight", lambda w: put(w, (3, 7), 1.01), "few weights changed",
                  "differs in 1 of 1,280 values: [3, 7] is"),
    "one sign": ("fc.weight", lambda w: put(w, (3, 7), -1), "few weights changed",
                 "[3, 7] has the opposite sign"),
    "no bias": ("fc.bias", lambda w: w * 0, "bias missing", "fc.bias is zero"),
    "scale": ("fc.weight", lambda w: w * np.float32(1.02), "scaled weights", "multiplied by 1.02"),
    "sign": ("conv.weight", lambda w: -w, "scaled weights", "has the opposite sign"),
    "channels": ("conv.weight", lambda w: w[order(0, 1, 16)], "channels swapped",
                 "output channels 0 and 1 swapped"),
    "inputs": ("conv.weight", lambda w: w[:, order(2, 5, 8)], "channels swapped",
               "input channels 2 and 5 swapped"),
    "turned": ("conv.weight", lambda w: w[:, :, ::-1, ::-1], "kernels turned", "180 degrees"),
    "transposed": ("conv.weight", lambda w: w.swapaxes(2, 3), "weights transposed", "transposed"),
    "pruned": ("fc.weight", pruned, "weights pruned", "30 % of its values set to zero (the small"),
    "float16": ("fc.weight", lambda w: w.astype(np.float16).astype(np.float32),
                "weights rounded to fp16", "rounded to float16"),
    "bfloat16": ("fc.weight", lambda w: cut(w, 16), "weights rounded to bf16", "to bfloat16"),
    "8 bits": ("fc.weight", lambda w: to_bits(w, 8), "weights rounded to 8 bits", "8 bits"),
    "4 bits": ("fc.weight", lambda w: to_bits(w, 4), "weights rounded to 4 bits", "4 bits"),
    "5 bits": ("fc.weight", lambda w: to_bits(w, 5), "weights rounded to 5 bits", "29 distinct"),
    "a part": ("fc.weight", lambda w: np.where(among_first(w), 1.01 * w, w), "weights changed",
               "differs in 64 of 1,280 values: they are multiplied by 1.01"),
    "a part shifted": ("fc.weight", lambda w: np.where(among_first(w), w + 1, w), "weights changed",
                       "differs in 64 of 1,280 values, by up to 1"),
    "noise": ("fc.weight", noisy, "weights noisy", "by up to 0.1 %"),
    "other": ("fc.weight", lambda w: w[:, ::-1] * 0.5 + 1, "weights changed", "nothing in common"),
    "NaN": ("fc.weight", lambda w: put(w, (0, 0), np.nan), "not finite", "1 value that is NaN"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_changed_tensor_is_named_with_its_place(way: str) -> None:
    name, change, kind, evidence = WAYS[way]
    cause = compare_tensors(WEIGHTS, {**WEIGHTS, name: change(WEIGHTS[name])})
    assert cause is not None
    assert cause.kind == kind, cause
    assert f"{name} " in cause.text
    assert evidence in cause.text, cause
    assert "2 tensors of 3 agree" in cause.text


def test_equal_tensors_and_tensors_with_other_names_have_no_cause() -> None:
    assert compare_tensors(WEIGHTS, WEIGHTS) is None
    assert compare_tensors(WEIGHTS, {"Constant_7": BIAS * 3, "fc.weight": MATRIX.T}) is None


def test_tensors_rounded_in_the_same_way_have_one_cause() -> None:
    half = {name: each.astype(np.float16).astype(np.float32) for name, each in WEIGHTS.items()}
    cause = compare_tensors(WEIGHTS, half)
    assert cause is not None
    assert cause.kind == "weights rounded to fp16"


def test_tiny_weights_distinguish_float16_from_tf32() -> None:
    tiny = {name: each * np.float32(1e-5) for name, each in WEIGHTS.items()}
    for kind, change in (
        ("fp16", lambda w: w.astype(np.float16).astype(np.float32)),
        ("TF32", lambda w: cut(w, 13)),
    ):
        cause = compare_tensors(tiny, {name: change(each) for name, each in tiny.items()})
        assert cause is not None
        assert cause.kind == f"weights rounded to {kind}"


def test_tf32_tensors_that_partly_fit_into_fp16_are_reported_as_tf32() -> None:
    """float16 has as many digits as TF32 but fewer small numbers, so a tensor of large values fits
    both formats."""
    small = CONV * np.float32(1e-6)
    expected = {"small": small, "large": MATRIX}
    cause = compare_tensors(expected, {name: cut(w, 13) for name, w in expected.items()})
    assert cause is not None
    assert cause.kind == "weights rounded to TF32"


def test_mixed_bf16_and_tf32_tensors_have_no_single_format() -> None:
    """A tensor in TF32 never fits bfloat16 by chance."""
    changed = {"conv.weight": cut(CONV * np.float32(1e-6), 13), "fc.weight": cut(MATRIX, 16)}
    expected = {"conv.weight": CONV * np.float32(1e-6), "fc.weight": MATRIX}
    cause = compare_tensors(expected, changed)
    assert cause is not None
    assert cause.kind == "weights rounded"


def test_weights_of_another_training_are_another_checkpoint() -> None:
    random = np.random.default_rng(9)
    other = {name: random.standard_normal(each.shape) for name, each in WEIGHTS.items()}
    cause = compare_tensors(WEIGHTS, other)
    assert cause is not None
    assert cause.kind == "another checkpoint"


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1), (2, 3, 1, 0)])
def test_tensors_are_found_in_bytes_in_any_layout(
    tmp_path: Path, layout: tuple[int, int, int, int]
) -> None:
    changed = put(CONV, (4, 5, 1, 1), 1.5)
    laid = np.ascontiguousarray(changed.transpose(layout)).tobytes()
    path = tmp_path / "model.bin"
    path.write_bytes(b"header1" + laid + b"between" + np.ascontiguousarray(MATRIX.T).tobytes())
    found = find_tensors(WEIGHTS, [path])
    assert sorted(found) == ["conv.weight", "fc.weight"]
    np.testing.assert_array_equal(found["conv.weight"], changed)
    cause = compare_tensors(WEIGHTS, found)
    assert cause is not None
    assert "conv.weight differs in 1 of 1,152 values: [4, 5, 1, 1]" in cause.text


def test_tensors_missing_from_a_file_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(np.random.default_rng(3).bytes(50_000))
    assert find_tensors(WEIGHTS, [path]) == {}


NODES = [
    Node(operator="Conv", attributes={"pads": "[0, 0, 0, 0]"}, weights=("conv.weight",)),
    Node(operator="Relu", attributes={}),
    Node(operator="MaxPool", attributes={"kernel_shape": "[2, 2]"}),
    Node(operator="Gemm", attributes={}, weights=("fc.weight", "fc.bias")),
]


@pytest.mark.parametrize(
    ("nodes", "evidence"),
    [
        ([NODES[0], *NODES[2:]], "Relu after Conv (conv.weight) is missing"),
        ([*NODES, Node(operator="Softmax", attributes={})], "extra Softmax at the output"),
        ([Node(operator="Mul", attributes={}), *NODES], "extra Mul at the input"),
        (
            [*NODES[:2], Node(operator="AveragePool", attributes={}), NODES[3]],
            "MaxPool after Conv (conv.weight) became AveragePool",
        ),
        (
            [
                Node(
                    operator="Conv", attributes={"pads": "[1, 1, 1, 1]"}, weights=("conv.weight",)
                ),
                *NODES[1:],
            ],
            "pads of Conv (conv.weight) is [1, 1, 1, 1], [0, 0, 0, 0] in a fresh export",
        ),
    ],
)
def test_changed_graph_is_named_with_its_place(nodes: list[Node], evidence: str) -> None:
    assert compare_graphs(NODES, NODES) is None
    cause = compare_graphs(NODES, nodes)
    assert cause is not None
    assert cause.kind == "graph changed"
    assert evidence in cause.text


def quantised(values: Array, *, wrong: float = 1.0, shift: int = 0, bits: int = 8) -> Quantised:
    most = 2 ** (bits - 1) - 1
    step = np.abs(values).max(axis=1, keepdims=True).astype(np.float64) / most
    whole = np.round(values / step)
    stored = np.roll(step, shift, axis=0) * wrong
    return Quantised(values=whole * stored, step=stored, levels=len(np.unique(whole)))


def test_healthy_quantisation_has_no_cause() -> None:
    seen = np.linspace(0, 10, 1000)
    ranges = {"relu": Range(low=0, high=9.8, seen=seen)}
    assert compare_quantised(WEIGHTS, {"fc.weight": quantised(MATRIX)}, ranges) is None


@pytest.mark.parametrize(
    ("stored", "kind", "evidence"),
    [
        (quantised(MATRIX, wrong=1.02), "scaled weights", "scales that are +2 % off"),
        (quantised(MATRIX, shift=1), "scaled weights", "the scale of the channel before it"),
        (quantised(MATRIX, bits=4), "weights rounded to 4 bits", "only 15 distinct levels"),
    ],
)
def test_wrong_quantisation_of_weights_is_named(
    stored: Quantised, kind: str, evidence: str
) -> None:
    cause = compare_quantised(WEIGHTS, {"fc.weight": stored}, {})
    assert cause is not None
    assert cause.kind == kind, cause
    assert evidence in cause.text


def test_range_that_clips_activations_is_named() -> None:
    seen = np.linspace(0, 10, 1000)
    cause = compare_quantised(WEIGHTS, {}, {"relu": Range(low=0, high=5, seen=seen)})
    assert cause is not None
    assert cause.kind == "saturation"
    assert "relu holds 0 to 5, its values reach 0 to 10 (50" in cause.text
