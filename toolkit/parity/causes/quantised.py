"""Comparison of quantised weights and ranges with the checkpoint's; pure functions.

In: dequantised tensors with their steps, and ranges with the observed values. Out: a `Cause`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import number, numbers
from toolkit.schema import Cause

Tensor = NDArray[np.float64]

_STEPS = 1.05  # learned rounding chooses either neighbour
_OTHER_SCALE = 0.005
_FEWER_LEVELS = 20
_SATURATED = 1e-3  # share of the values that lie beyond the range
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A weight as the file stores it: dequantised values, and their step, which broadcasts."""

    values: Tensor
    step: Tensor
    levels: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Range:
    """The range of a quantiser of activations, and the values that the checkpoint gives there."""

    low: float
    high: float
    seen: NDArray[np.floating]


def compare_quantised(
    expected: Mapping[str, NDArray[np.floating]],
    found: Mapping[str, Quantised],
    ranges: Mapping[str, Range],
) -> Cause | None:
    """Return the cause found in the quantisation; None if all of it is as expected."""
    weights = list(_weights(expected, found))
    if weights:
        return Cause(
            kind=weights[0][0],
            text=f"The file's quantised weights are not the checkpoint's: {_joined(weights)}.",
            action="Quantise again, and compare scales and zero points with the weights' largest "
            "values.",
        )
    saturated = list(_saturated(ranges))
    if not saturated:
        return None
    return Cause(
        kind="saturation",
        text=f"The file's ranges are too small for its activations: {_joined(saturated)}.",
        action="Calibrate again on images like these, and compare the scales.",
    )


def _joined(found: Sequence[tuple[str, str]]) -> str:
    more = len(found) - _SHOWN
    words = "; ".join(words for _, words in found[:_SHOWN])
    return f"{words}; and {more} more" if more > 0 else words


def _weights(
    expected: Mapping[str, NDArray[np.floating]], found: Mapping[str, Quantised]
) -> Iterator[tuple[str, str]]:
    for name, stored in found.items():
        if name in expected and expected[name].shape == stored.values.shape:
            words = _compare(expected[name].astype(np.float64), stored)
            if words is not None:
                yield words[0], f"{name} {words[1]}"


def _compare(ours: Tensor, stored: Quantised) -> tuple[str, str] | None:
    theirs = stored.values
    off = np.abs(theirs - ours) / stored.step
    few = _too_few_levels(stored)
    if few is not None or off.max() <= _STEPS:
        return few
    axes = tuple(range(1, ours.ndim))
    power = (ours**2).sum(axis=axes)
    factors = (ours * theirs).sum(axis=axes) / np.where(power > 0, power, 1)
    steps = np.broadcast_to(stored.step, ours.shape).reshape(len(ours), -1)[:, 0]
    shift = _shifted(ours, theirs, steps) if np.ptp(steps) > 0 else None
    if shift is not None:
        other = "before" if shift > 0 else "after"
        return "scaled weights", f"has in each channel the scale of the channel {other} it"
    middle = float(np.median(factors))
    if abs(middle - 1) > _OTHER_SCALE and np.abs(factors / middle - 1).max() < 0.05:
        rest = np.abs(theirs - middle * ours).max() / float(stored.step.max())
        if rest <= 1:
            return "scaled weights", f"has scales that are {100 * (middle - 1):+.2g} % off"
    return _few_channels(factors, off, axes) or (
        "weights changed",
        f"is up to {off.max():.3g} steps away, but rounding explains at most 1",
    )


def _too_few_levels(stored: Quantised) -> tuple[str, str] | None:
    if stored.values.size > 500 and stored.levels <= _FEWER_LEVELS:
        return "weights rounded to 4 bits", f"has only {stored.levels} distinct levels"
    return None


def _shifted(ours: Tensor, theirs: Tensor, steps: Tensor) -> int | None:
    """Return by how many channels the scales must move to fit."""
    column = (len(ours), *(1,) * (ours.ndim - 1))
    for shift in (1, -1):
        right = theirs / steps.reshape(column) * np.roll(steps, shift).reshape(column)
        if (np.abs(right - ours) / np.roll(steps, shift).reshape(column)).max() <= _STEPS:
            return -shift
    return None


def _few_channels(factors: Tensor, off: Tensor, axes: tuple[int, ...]) -> tuple[str, str] | None:
    bad = np.flatnonzero(off.max(axis=axes) > _STEPS)
    if not 0 < len(bad) <= max(1, len(factors) // 4):
        return None
    return "weights changed", (
        f"is wrong only in output channels {numbers(bad)} (up to {off.max():.3g} steps)"
    )


def _saturated(ranges: Mapping[str, Range]) -> Iterator[tuple[str, str]]:
    for name, each in ranges.items():
        seen = each.seen[each.seen != 0] if (each.seen != 0).any() else each.seen
        beyond = float(np.mean((seen > each.high) | (seen < each.low)))
        low, high = float(each.seen.min()), float(each.seen.max())
        # Some files clip outliers on purpose, so only a large loss of range counts.
        if beyond > _SATURATED and (high > 1.25 * each.high or low < 1.25 * each.low - 1e-6):
            yield (
                "saturation",
                (
                    f"{name} holds {number(each.low)} to {number(each.high)}, its values reach "
                    f"{number(low)} to {number(high)} ({100 * beyond:.2g} % are cut off)"
                ),
            )
