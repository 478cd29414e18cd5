"""Rounding to narrower number formats with numpy, and the resulting error.

`round_to`: a float array and a kind of rounding → an array of the same dtype and shape that holds
representable values only. The torch version is `toolkit.artifacts.rounding.torch_model`.

`error_of_steps` and `error_of_evaluation`: logits → an `ExpectedError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import ExpectedError, Inputs

Kind = Literal["fp16", "bf16", "tf32", "int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)

INT8_MAX = 127
MEASURED_IMAGES = 200
"""Enough for a root mean square: with ten classes, these are 2,000 logits."""
NOISE_DRAWS = 3

DROPPED_BITS = {"bf16": 16, "tf32": 13}
"""Number of float32's 23 fraction bits that each kind drops; the exponent is unchanged."""

_MOST_PER_CALL = 50
_MOST_BYTES_PER_CALL = 2 << 20  # of inputs: all activations together need a hundred times as much


def images_per_call(inputs: Inputs) -> int:
    """Return how many inputs to compute in one call that returns the activations of all layers."""
    return max(1, min(_MOST_PER_CALL, _MOST_BYTES_PER_CALL // max(1, inputs[:1].nbytes)))


def round_to(array: NDArray[np.floating], kind: Kind, *, axis: int = 0) -> NDArray[np.floating]:
    """Round to the nearest value that `kind` can represent; ties go to the even one.

    Args:
        array: Any float dtype; it is converted to float32 first, like the values of a file.
        kind: `fp16`, `bf16`, `tf32` (float32's exponent, fp16's fraction), or `int8`: symmetric
            steps of the largest magnitude over 127, one step size per index along `axis`.
        axis: The channel axis of `int8`.

    Returns:
        The same dtype and shape. Values beyond fp16's largest, 65504, become infinite.

    Raises:
        ValueError: An unknown kind.
    """
    values = array.astype(np.float32)
    if kind == "fp16":
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16).astype(np.float32)
    elif kind == "int8":
        rounded = _to_int8(values, axis)
    elif kind in DROPPED_BITS:
        rounded = _drop_bits(values, DROPPED_BITS[kind])
    else:
        raise ValueError(f"kind {kind!r}, expected one of {', '.join(KINDS)}")
    return rounded.astype(array.dtype)


def int8_steps(array: NDArray[np.floating], *, axis: int = 0) -> NDArray[np.floating]:
    """Return the step size per channel of symmetric int8, with dimensions kept for broadcasting."""
    others = tuple(each for each in range(array.ndim) if each != axis % max(array.ndim, 1))
    largest = np.abs(array).max(axis=others, keepdims=True, initial=0)
    steps: NDArray[np.floating] = np.where(largest > 0, largest / INT8_MAX, 1).astype(array.dtype)
    return steps


def _to_int8(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    steps = int8_steps(values, axis=axis)
    rounded: NDArray[np.float32] = np.rint(values / steps).clip(-INT8_MAX, INT8_MAX) * steps
    return rounded


def _drop_bits(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Clear the lowest `count` fraction bits, to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    half = np.uint32((1 << (count - 1)) - 1)
    even = (bits >> np.uint32(count)) & np.uint32(1)
    mask = np.uint32(0xFFFFFFFF << count & 0xFFFFFFFF)
    rounded = ((bits + half + even) & mask).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def error_of_steps(
    plain: NDArray[np.floating],
    rounded: NDArray[np.floating],
    noisy: Sequence[NDArray[np.floating]],
    uncut: NDArray[np.floating] | None = None,
) -> ExpectedError:
    """Return the expected error of a quantised file, from the sizes of its own steps.

    A file contains the step size of each of its tensors, but not the values before rounding. So
    float models are derived from it that differ in what is rounded. Wrong scales, zero points,
    weights or biases move all of them alike, so they are not hidden in the expected error: they
    show as an actual error far beyond it.

    Args:
        plain: Logits `[N,K]` with the weights of the file, and activations clipped to the ranges in
            the file, but not rounded.
        rounded: The same with rounded activations, which is what the file computes.
        noisy: `plain` with each weight moved by up to half its step, uniformly, as rounding did;
            one entry per draw.
        uncut: `plain` without the limits that clip on purpose; see
            `toolkit.artifacts.rounding.clipping`. None if there are none.

    Returns:
        `rms` adds the parts as independent errors; `largest` is that of their sums.
    """
    method = "from the file's steps: activations with and without rounding, weights with noise"
    activations, cut = rounded - plain, np.zeros_like(plain)
    if uncut is not None:
        cut = plain - uncut
        method += ", ranges that clip on purpose with and without their limits"
    weights = [each - plain for each in noisy]
    parts = (_rms(activations), _rms(np.stack(weights)), _rms(cut))
    return ExpectedError(
        rms=float(np.sqrt(np.sum(np.square(parts)))),
        largest=max(float(np.abs(activations + cut + each).max()) for each in weights),
        images=len(plain),
        method=method,
    )


def error_of_evaluation(
    logits: NDArray[np.floating], reference: NDArray[np.floating], *, method: str
) -> ExpectedError:
    """Return the error of a quantised graph in an evaluation that `method` describes."""
    error = logits.astype(np.float64) - reference
    return ExpectedError(
        rms=_rms(error), largest=float(np.abs(error).max()), images=len(error), method=method
    )


def _rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
