"""Planted faults of int8 ONNX files: one tensor of the reference CNN's int8 export is changed.

Each builder changes the given model. The checksum in the manifest is then updated, as if the file
had been post-processed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Builder = Callable[[onnx.ModelProto], None]
Change = Callable[[NDArray[Any]], NDArray[Any]]

_ACTIVATIONS = ("input", "relu", "relu_1", "relu_2")


def _changed(change: Change, *names: str) -> Builder:
    """Return a builder that replaces these initializers; their types stay."""

    def build(model: onnx.ModelProto) -> None:
        found = {each.name: each for each in model.graph.initializer}
        for name in names:
            values = numpy_helper.to_array(found[name])
            new = change(values.copy()).astype(values.dtype)
            found[name].CopyFrom(numpy_helper.from_array(new, name))

    return build


def _times(factor: float) -> Change:
    return lambda values: values * np.float32(factor)


def _lowered(classes: list[int], by: float) -> Change:
    def change(bias: NDArray[Any]) -> NDArray[Any]:
        bias[classes] -= by
        return bias

    return change


def _to_four_bits(weights: NDArray[Any]) -> NDArray[Any]:
    return np.rint(weights / 16).clip(-7, 7) * 16


NEED_NOT_BE_CAUGHT = (*(f"{name} scale +2 %" for name in _ACTIVATIONS), "input zero point +1")
"""With these faults, logits are as near to the checkpoint's as with a healthy file."""

INT8_FAULTS: dict[str, Builder] = {
    **{f"{name} scale +2 %": _changed(_times(1.02), f"{name}_scale") for name in _ACTIVATIONS},
    **{
        f"{name} scale /2 (saturates)": _changed(_times(0.5), f"{name}_scale")
        for name in _ACTIVATIONS
    },
    **{
        f"{name} zero point +1": _changed(lambda zero: zero + 1, f"{name}_zero_point")
        for name in _ACTIVATIONS
    },
    "relu scale /4 (saturates)": _changed(_times(0.25), "relu_scale"),
    "fc1 weight scales +2 %": _changed(_times(1.02), "model.fc1.weight_scale"),
    "conv2 channel scales shifted by 1": _changed(
        lambda scales: np.roll(scales, 1), "model.conv2.weight_scale"
    ),
    "fc1 to 4 bits": _changed(_to_four_bits, "model.fc1.weight_quantized"),
    "classes 8, 9 bias -0.5": _changed(_lowered([8, 9], 0.5), "model.fc2.bias"),
    "class 7 bias -2": _changed(_lowered([7], 2.0), "model.fc2.bias"),
    "fc2 scaled x10": _changed(_times(10), "model.fc2.weight"),
}
