"""The reference: float64 logits of the checkpoint, and the noise floor of each image. Pure.

An image's noise floor is how far torch's own float32 results of that image are from float64. It is
never below the spacing of float32 numbers at the scale of the image's logits, nor below what is
typical of the data set: a few float32 results may agree with float64 by luck. One image's noise
says nothing about another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import Precision

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What candidates are compared with.

    Attributes:
        logits: `[N,K]` of the checkpoint.
        labels: `[N]`.
        floors: `[N]`, the noise floor of each image in logit units.
        precision: fp64, or fp32 where the model has no float64 form.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    floors: NDArray[np.float64]
    precision: Precision = "fp64"

    @property
    def accuracy(self) -> float:
        """Share of images that the reference classifies as labelled."""
        return float(np.mean(self.logits.argmax(1) == self.labels))

    @property
    def margins(self) -> NDArray[np.float64]:
        """`[N]`: distance between the best and the second-best logit."""
        top = np.partition(self.logits, -2, axis=1)
        return top[:, -1] - top[:, -2]

    def rows(self, indices: NDArray[np.intp]) -> Reference:
        """The reference of some of the images, in this order."""
        return Reference(
            logits=self.logits[indices],
            labels=self.labels[indices],
            floors=self.floors[indices],
            precision=self.precision,
        )

    def in_floors(self, candidate: NDArray[np.floating]) -> NDArray[np.float64]:
        """Distance of candidate logits `[N,K]`, each in noise floors of its image.

        A logit's floor is at least the spacing of float32 at its own size. Infinities of the same
        sign on both sides are equal; NaN stays NaN.
        """
        floors = np.maximum(self.floors[:, None], spacing(self.logits))
        with np.errstate(invalid="ignore", over="ignore"):
            return distances(self.logits, candidate) / floors


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """The reference of a data set, and that of images that no data set has.

    `special_images` are uint8 `[P,C,H,W]`; `special_rows` says which of those that were made for
    the data set they are.
    """

    data: Reference
    special: Reference
    special_images: NDArray[np.uint8]
    special_rows: NDArray[np.intp]


def distances(
    reference: NDArray[np.floating], candidate: NDArray[np.floating]
) -> NDArray[np.float64]:
    """`|candidate - reference|` of logits `[N,K]`; infinities of the same sign are 0 apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.abs(candidate.astype(np.float64) - reference)
    found[(candidate == reference) & np.isinf(reference)] = 0.0
    return found


def spacing(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The distance of neighbouring float32 numbers at the size of each value; 0 of infinities."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    size = np.minimum(finite, _LARGEST).astype(np.float32)
    below = np.nextafter(size, np.float32(0))  # above the largest float32 there is none
    return (size - below).astype(np.float64)


def noise_floors(
    reference: NDArray[np.floating], float32_runs: Sequence[NDArray[np.floating]]
) -> NDArray[np.float64]:
    """`[N]`: the noise floor of each image, from torch's float32 logits of the same images.

    All arrays are `[N,K]`. A run may hold NaN rows for images that it did not compute. What a
    logit's own float32 spacing explains is not counted: a class that is masked with a huge value
    must not excuse the others.

    Raises:
        ValueError: there is nothing to compare.
    """
    if not float32_runs or reference.size == 0:
        raise ValueError("noise floors need at least one float32 run of at least one image")
    own_spacing = spacing(reference)
    noise = np.zeros(len(reference))
    for run in float32_runs:
        found = distances(reference, run)
        found[np.isnan(run) | (found <= own_spacing)] = 0.0
        noise = np.maximum(noise, found.max(axis=1))
    scale = scales(reference)
    return np.maximum(noise, np.maximum(_typical(noise, scale), spacing(scale)))


def scales(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """`[N]`: the size of the two logits that decide each image."""
    top = np.partition(logits, -2, axis=1)[:, -2:].astype(np.float64)
    sizes: NDArray[np.float64] = np.where(np.isfinite(top), np.abs(top), 0.0).max(axis=1)
    return sizes


def _typical(noise: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median noise, or the median noise for the image's scale if that is less."""
    relative = np.divide(noise, scale, out=np.zeros_like(noise), where=scale > 0)
    known = noise[np.isfinite(noise)]
    if not known.size:
        return np.zeros_like(noise)
    with np.errstate(over="ignore"):
        typical = np.median(relative[np.isfinite(relative)]) * scale
        lower: NDArray[np.float64] = np.minimum(np.median(known), typical)
        return lower


def unclear(reference: Reference, floors: float) -> NDArray[np.bool_]:
    """`[N]`: images whose logits are no further apart than `floors` noise floors: torch's own
    float32 decides nothing there."""
    finite = np.where(np.isfinite(reference.logits), reference.logits, np.nan)
    spread = np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)
    clear: NDArray[np.bool_] = spread > floors * reference.floors
    return ~clear
