"""Detection of the ranges in a quantised file that clip activations on purpose.

In: the range of each activation, and the extremes that images reach there. Out: the limits whose
clipping is part of a healthy file's error. A scale that is too small clips as well, but
differently:

- Calibration takes the smallest and largest value of some images, so few other images reach
  further.
- NNCF takes the mean over images of each image's extreme (its range estimator's `MEAN`), so about
  half of the images reach further, in all activations of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEW_IMAGES = 0.05
_MEAN_WITHIN = 0.05
"""Maximum median distance of a file's ranges from the means of extremes: up to 0.02 was seen in
NNCF's files, 0.16 and more in others."""
_SMALLEST_MEAN = 0.9  # for one range in such a file
_SAME_IN_ALL_IMAGES = 1.1
_NO_RANGE_OF_ITS_OWN = 0.5
_ONE_STEP = 0.02  # of an int8 range, which has one more value below zero than above


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The range of one activation, `[K]` limits, and how far each image reaches, `[N,K]`.

    K is the number of channels if each has its own range, else 1.
    """

    low: NDArray[np.floating]
    high: NDArray[np.floating]
    lowest: NDArray[np.floating]
    highest: NDArray[np.floating]

    @property
    def sides(self) -> tuple[tuple[NDArray[np.floating], NDArray[np.floating]], ...]:
        """Return the limit `[K]` and each image's extreme `[N,K]`, below zero and above, as
        magnitudes.

        Both limits of a symmetric range come from the larger magnitudes.
        """
        below, above = -self.lowest, self.highest
        if np.all(np.abs(self.low + self.high) <= _ONE_STEP * self.high):
            below = above = np.maximum(below, above)
        return (-self.low, below), (self.high, above)


Opened = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def limits_on_purpose(reaches: Sequence[Reach]) -> list[Opened] | None:
    """Return the low and high limits `[K]` of each activation that clip on purpose; None if none
    does."""
    means = _are_means(reaches)
    opened = []
    for reach in reaches:
        sides = []
        for limit, extremes in reach.sides:
            beyond = (extremes > limit).mean(0)
            wanted = beyond <= _FEW_IMAGES
            if means:
                wanted |= _share(limit, extremes) >= _SMALLEST_MEAN
            sides.append((beyond > 0) & wanted)
        opened.append((sides[0], sides[1]))
    return opened if any(side.any() for sides in opened for side in sides) else None


def _are_means(reaches: Sequence[Reach]) -> bool:
    """Return whether all ranges are means of extremes; a single one may be so by chance."""
    shares: dict[tuple[bytes, bytes], float] = {}  # several pairs may have the same range
    for reach in reaches:
        varied = [
            float(np.median(_share(limit, extremes)))
            for limit, extremes in reach.sides
            if _varies(extremes)
        ]
        own = [share for share in varied if share > _NO_RANGE_OF_ITS_OWN]
        if own:
            shares[reach.low.tobytes(), reach.high.tobytes()] = min(own)
    deviations = np.abs(np.array([*shares.values()]) - 1)
    return len(shares) > 1 and bool(np.median(deviations) <= _MEAN_WITHIN)


def _share(limit: NDArray[np.floating], extremes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the limit divided by the mean of the images' extremes; infinite if that is not beyond
    0."""
    mean = extremes.mean(0)
    share = np.full(mean.shape, np.inf)
    np.divide(limit, mean, out=share, where=mean > 0)
    return share


def _varies(extremes: NDArray[np.floating]) -> bool:
    """Return whether extremes vary. Otherwise mean and maximum are equal, for example if all images
    have a white pixel."""
    mean = extremes.mean(0)
    return bool(np.median(extremes.max(0) - _SAME_IN_ALL_IMAGES * mean) > 0 < np.median(mean))
