"""The reference: float64 logits of the checkpoint, and the noise floor of each image; pure
functions.

The noise floor of an image is the distance of PyTorch's own float32 results from float64 on that
image. It is never below the spacing of float32 numbers at the scale of the image's logits, nor
below the typical floor of the data set, because a few float32 results may agree with float64 by
chance. The noise of one image says nothing about another.
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
    """The reference that candidates are compared with.

    Attributes:
        logits: `[N,K]` of the checkpoint.
        labels: `[N]`.
        floors: `[N]`, the noise floor of each image in logit units.
        precision: fp64, or fp32 if the model cannot run in float64.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    floors: NDArray[np.float64]
    precision: Precision = "fp64"

    @property
    def accuracy(self) -> float:
        """Return the share of images that the reference classifies as labelled."""
        return float(np.mean(self.logits.argmax(1) == self.labels))

    @property
    def margins(self) -> NDArray[np.float64]:
        """Return `[N]`: the distance between the best and the second-best logit."""
        top = np.partition(self.logits, -2, axis=1)
        return top[:, -1] - top[:, -2]

    def rows(self, indices: NDArray[np.intp]) -> Reference:
        """Return the reference of some of the images, in this order."""
        return Reference(
            logits=self.logits[indices],
            labels=self.labels[indices],
            floors=self.floors[indices],
            precision=self.precision,
        )

    def in_floors(self, candidate: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance of candidate logits `[N,K]`, in noise floors of their image.

        The floor of a logit is at least the spacing of float32 at its own size. Infinities of the
        same sign on both sides are equal; NaN stays NaN.
        """
        floors = np.maximum(self.floors[:, None], spacing(self.logits))
        with np.errstate(invalid="ignore", over="ignore"):
            return distances(self.logits, candidate) / floors


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """The reference of a data set, and the reference of images that no data set contains.

    `special_images` are uint8 `[P,C,H,W]`. `special_rows` are their positions among all special
    images made for the data set.
    """

    data: Reference
    special: Reference
    special_images: NDArray[np.uint8]
    special_rows: NDArray[np.intp]


def distances(
    reference: NDArray[np.floating], candidate: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return `|candidate - reference|` of logits `[N,K]`; infinities of the same sign are 0
    apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.abs(candidate.astype(np.float64) - reference)
    found[(candidate == reference) & np.isinf(reference)] = 0.0
    return found


def spacing(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the distance of neighbouring float32 numbers at the size of each value; 0 for
    infinities."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    size = np.minimum(finite, _LARGEST).astype(np.float32)
    below = np.nextafter(size, np.float32(0))  # there is none above the largest float32
    return (size - below).astype(np.float64)


def noise_floors(
    reference: NDArray[np.floating], float32_runs: Sequence[NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Return `[N]`: the noise floor of each image, from PyTorch's float32 logits of the same
    images.

    All arrays are `[N,K]`. A run may hold NaN rows for images that it did not compute. Differences
    that the float32 spacing of a logit explains are not counted: a class masked with a huge value
    must not excuse the others.

    Raises:
        ValueError: There is nothing to compare.
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
    """Return `[N]`: the size of the two logits that decide each image."""
    top = np.partition(logits, -2, axis=1)[:, -2:].astype(np.float64)
    sizes: NDArray[np.float64] = np.where(np.isfinite(top), np.abs(top), 0.0).max(axis=1)
    return sizes


def _typical(noise: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median noise, or the median noise for the image's scale if that is less."""
    relative = np.divide(noise, scale, out=np.zeros_like(noise), where=scale > 0)
    known = noise[np.isfinite(noise)]
    if not known.size:
        return np.zeros_like(noise)
    with np.errstate(over="ignore"):
        typical = np.median(relative[np.isfinite(relative)]) * scale
        lower: NDArray[np.float64] = np.minimum(np.median(known), typical)
        return lower


def unclear(reference: Reference, floors: float) -> NDArray[np.bool_]:
    """Return `[N]`: images whose logits differ by no more than `floors` noise floors, so that
    PyTorch's own float32 decides nothing."""
    finite = np.where(np.isfinite(reference.logits), reference.logits, np.nan)
    spread = np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)
    clear: NDArray[np.bool_] = spread > floors * reference.floors
    return ~clear
