"""The expected error of an int8 OpenVINO IR, measured from the file alone.

In: a model whose activations pass through FakeQuantize and whose weights are integers, and inputs.
Out: an `ExpectedError`; see `error_of_steps` in `toolkit.artifacts.rounding.number_formats`. The
compared models contain no FakeQuantize and no integers, so OpenVINO computes all of them in
float32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.rounding.clipping import Opened, Reach, limits_on_purpose
from toolkit.artifacts.rounding.number_formats import (
    MEASURED_IMAGES,
    NOISE_DRAWS,
    error_of_steps,
    images_per_call,
)
from toolkit.schema import ExpectedError, Inputs

# OpenVINO sends telemetry unless this package is missing (seen in 2026.4.1).
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_INTEGERS = {"i8", "u8", "i4", "u4"}


def measure(path: Path, inputs: Inputs, *, threads: int = 1) -> ExpectedError | None:
    """Return the expected error of `model.xml` on the first `MEASURED_IMAGES` of inputs
    `[N,C,H,W]`.

    None if the file rounds nothing. OpenVINO computes in this process.
    """
    import openvino

    model = openvino.Core().read_model(path)
    kinds = {node.get_type_name() for node in model.get_ops()}
    if not (_weights(model) or "FakeQuantize" in kinds) or len(inputs) == 0:
        return None
    inputs = inputs[:MEASURED_IMAGES]
    plain, *extremes = _evaluate(in_float(model, extremes=True), inputs, threads=threads)
    opened = limits_on_purpose(_reaches(model, extremes))

    def logits(changed: Any) -> NDArray[np.floating]:
        return _evaluate(changed, inputs, threads=threads)[0]

    return error_of_steps(
        plain,
        logits(in_float(model, rounded=True)),
        [logits(in_float(model, seed=seed)) for seed in range(NOISE_DRAWS)],
        None if opened is None else logits(in_float(model, opened=opened)),
    )


def in_float(
    model: Any,
    *,
    rounded: bool = False,
    seed: int | None = None,
    opened: Sequence[Opened] | None = None,
    extremes: bool = False,
) -> Any:
    """Return a copy without integers, whose activations are clipped to their ranges.

    Args:
        model: The model of the file.
        rounded: Round activations too.
        seed: Move each weight by up to half its step.
        opened: The low and high limits to leave out, per activation.
        extremes: Also return the lowest and highest value of each activation, `[N,K]`.
    """
    changed = model.clone()
    nodes = _activations(changed)
    if extremes:
        changed.add_outputs([each for node in nodes for each in _extremes(node)])
    none = (np.zeros(1, np.bool_), np.zeros(1, np.bool_))
    for node, limits in zip(nodes, opened or [none] * len(nodes), strict=True):
        _spell_out(node, limits, rounded=rounded)
    _weights_as_floats(changed, np.random.default_rng(seed) if seed is not None else None)
    changed.validate_nodes_and_infer_types()
    return changed


def _activations(model: Any) -> list[Any]:
    nodes = model.get_ordered_ops()
    found = [node for node in nodes if node.get_type_name() == "FakeQuantize"]
    return [node for node in found if not _is_constant(node)]


def _is_constant(node: Any) -> bool:
    """Return whether it is computed from constants only."""
    waiting, seen = [node], set()
    while waiting:
        each = waiting.pop()
        if each.get_type_name() == "Parameter":
            return False
        if each.get_friendly_name() not in seen:
            seen.add(each.get_friendly_name())
            waiting.extend(value.get_node() for value in each.input_values())
    return True


def _constant(node: Any, at: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = node.input_value(at).get_node().data.astype(np.float32)
    return values


def _reaches(model: Any, extremes: Sequence[NDArray[np.floating]]) -> list[Reach]:
    return [
        Reach(
            low=_constant(node, 1).reshape(-1),
            high=_constant(node, 2).reshape(-1),
            lowest=lowest,
            highest=highest,
        )
        for node, lowest, highest in zip(
            _activations(model), extremes[::2], extremes[1::2], strict=True
        )
    ]


def _extremes(node: Any) -> tuple[Any, Any]:
    """Return the lowest and highest value of each image, over all or per channel, `[N,K]`."""
    from openvino import opset13 as op

    shape = _constant(node, 1).shape
    rank = node.input_value(0).get_partial_shape().rank.get_length()
    channel = rank - len(shape) + int(np.argmax(shape)) if np.prod(shape) > 1 else None
    axes = [axis for axis in range(1, rank) if axis != channel]
    as_rows = np.array([0, int(np.prod(shape))])
    lowest, highest = (
        op.reshape(reduce(node.input_value(0), axes, False), as_rows, True).output(0)
        for reduce in (op.reduce_min, op.reduce_max)
    )
    return lowest, highest


def _weights(model: Any) -> list[Any]:
    """Return the conversions of integer constants to float, except those of zero points."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert":
            continue
        source = node.input_value(0)
        (users,) = [output.get_target_inputs() for output in node.outputs()]
        subtracted = any(
            user.get_node().get_type_name() == "Subtract" and user.get_index() == 1
            for user in users
        )
        constant = source.get_node().get_type_name() == "Constant"
        if constant and not subtracted and source.get_element_type().get_type_name() in _INTEGERS:
            found.append(node)
    return found


def _spell_out(node: Any, opened: Opened, *, rounded: bool) -> None:
    """Replace FakeQuantize by the formula of its definition; without `rounded` it only clips."""
    from openvino import opset13 as op

    given, low, high, new_low, new_high = (node.input_value(at) for at in range(5))
    lowest = _without(_constant(node, 1), opened[0], -np.finfo(np.float32).max)
    highest = _without(_constant(node, 2), opened[1], np.finfo(np.float32).max)
    cut = op.minimum(op.maximum(given, lowest), highest)
    share = op.divide(op.subtract(cut, low), op.subtract(high, low))
    if rounded:
        steps = np.float32(node.get_attributes()["levels"] - 1)
        share = op.divide(op.round(op.multiply(share, steps), "half_to_even"), steps)
    result = op.add(op.multiply(share, op.subtract(new_high, new_low)), new_low)
    node.output(0).replace(result.output(0))


def _without(
    limits: NDArray[np.float32], opened: NDArray[np.bool_], beyond: np.float32
) -> NDArray[np.float32]:
    found = np.where(opened, beyond, limits.reshape(-1))
    return found.reshape(limits.shape).astype(np.float32)


def _weights_as_floats(model: Any, random: np.random.Generator | None) -> None:
    """Replace weights by floats. With a generator, each is moved by up to half a step, which is 0.5
    for integers."""
    from openvino import opset13 as op

    def noise(shape: Sequence[int]) -> NDArray[np.float32]:
        found = np.zeros(shape) if random is None else random.uniform(-0.5, 0.5, shape)
        return found.astype(np.float32)

    for node in _weights(model):
        values = node.input_value(0).get_node().data.astype(np.float32)
        moved = op.constant(values + noise(values.shape))
        dtype = node.output(0).get_element_type()
        node.output(0).replace(op.convert(moved, dtype).output(0))
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and random is not None:  # for floats
            users = node.output(0).get_target_inputs()
            step = (_constant(node, 4) - _constant(node, 3)) / (node.get_attributes()["levels"] - 1)
            moved = op.add(node, step.astype(np.float32) * noise(list(node.shape)))
            for user in users:
                user.replace_source_output(moved.output(0))


def _evaluate(model: Any, inputs: Inputs, *, threads: int) -> list[NDArray[np.floating]]:
    """Return all outputs as float64, logits `[N,K]` first, computed by OpenVINO's CPU plugin in
    float32."""
    import openvino

    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    parts = []
    size = images_per_call(inputs)
    for start in range(0, len(inputs), size):
        outputs = request.infer({0: inputs[start : start + size]})
        parts.append([outputs[at].copy() for at in range(len(model.outputs))])
    return [np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True)]
