"""How far an int8 OpenVINO IR's own rounding should move its logits, told from the file alone.

In: a model whose activations go through FakeQuantize and whose weights are integers, and inputs.
Out: an `ExpectedError`; see `toolkit.rounding.error_of_steps`. The models that are compared hold
no FakeQuantize and no integers any more, so OpenVINO computes all of them in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.rounding import MEASURED_IMAGES, NOISE_DRAWS, error_of_steps
from toolkit.schema import ExpectedError

# OpenVINO tells a server of its makers, unless this package is missing (seen in 2026.4.1).
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_INTEGERS = {"i8", "u8", "i4", "u4"}
_BATCH_SIZE = 50


def measure(path: Path, inputs: NDArray[np.float32], *, threads: int = 1) -> ExpectedError | None:
    """The expected error of `model.xml` on the first `MEASURED_IMAGES` of inputs `[N,C,H,W]`.

    None where the file rounds nothing. OpenVINO computes in this process.
    """
    import openvino

    model = openvino.Core().read_model(path)
    rounds = _activations(model) or _weights(model)
    if not rounds or len(inputs) == 0:
        return None
    inputs = inputs[:MEASURED_IMAGES]

    def logits(*, rounded: bool, seed: int | None = None) -> NDArray[np.floating]:
        changed = model.clone()
        _round_in_float(changed, rounded=rounded)
        _weights_as_floats(changed, seed=seed)
        return _evaluate(changed, inputs, threads=threads)

    return error_of_steps(
        logits(rounded=False),
        logits(rounded=True),
        [logits(rounded=False, seed=seed) for seed in range(NOISE_DRAWS)],
    )


def _activations(model: Any) -> list[Any]:
    return [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]


def _weights(model: Any) -> list[Any]:
    """Conversions of integer constants to float, but for those of zero points."""
    found = []
    for node in model.get_ops():
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


def _round_in_float(model: Any, *, rounded: bool) -> None:
    """Spell each FakeQuantize out, by the formula of its definition; without `rounded` it only
    cuts to the range."""
    from openvino import opset13 as op

    for node in _activations(model):
        given, low, high, new_low, new_high = (node.input_value(at) for at in range(5))
        steps = np.float32(node.get_attributes()["levels"] - 1)
        cut = op.minimum(op.maximum(given, low), high)
        share = op.divide(op.subtract(cut, low), op.subtract(high, low))
        if rounded:
            share = op.divide(op.round(op.multiply(share, steps), "half_to_even"), steps)
        result = op.add(op.multiply(share, op.subtract(new_high, new_low)), new_low)
        node.output(0).replace(result.output(0))


def _weights_as_floats(model: Any, *, seed: int | None) -> None:
    """With a seed each is moved by up to half a step, which is the 1 of its integers."""
    from openvino import opset13 as op

    random = np.random.default_rng(seed)
    for node in _weights(model):
        values = node.input_value(0).get_node().data.astype(np.float32)
        if seed is not None:
            values = values + random.uniform(-0.5, 0.5, values.shape).astype(np.float32)
        dtype = node.output(0).get_element_type()
        node.output(0).replace(op.convert(op.constant(values), dtype).output(0))


def _evaluate(model: Any, inputs: NDArray[np.float32], *, threads: int) -> NDArray[np.floating]:
    """Logits `[N,K]` as float64, by OpenVINO's CPU plugin in float32."""
    import openvino

    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    parts = []
    for start in range(0, len(inputs), _BATCH_SIZE):
        parts.append(request.infer({0: inputs[start : start + _BATCH_SIZE]})[0].copy())
    logits: NDArray[np.floating] = np.concatenate(parts).astype(np.float64)
    return logits
