"""Differences between reference logits and candidate logits: distances, flips, accuracy.

In: two sets of logits of the same shape. Out: numbers for the verdict, not yet judged. All
functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.gates import BENIGN_FLOORS
from toolkit.parity.reference import Reference, distances
from toolkit.schema import Bound, Flip, Gates, Score, WorstImage
from toolkit.statistics.shares import accuracy_drop, rate

_SHOWN_CLASSES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitDifferences:
    """Numbers derived from two sets of logits of the same shape.

    `exact` says that the candidate's precision is exact. `confidence` is that of the bounds.
    """

    reference: Reference
    candidate: NDArray[np.floating]
    exact: bool
    confidence: float

    @cached_property
    def distance(self) -> NDArray[np.float64]:
        """`[N,K]` in logit units; NaN or infinite if the candidate is and should not be."""
        return distances(self.reference.logits, self.candidate)

    @cached_property
    def in_floors(self) -> NDArray[np.float64]:
        """`[N]`: the largest distance of each image, in noise floors; infinite instead of NaN."""
        found = self.reference.in_floors(self.candidate)
        largest: NDArray[np.float64] = np.where(np.isnan(found), np.inf, found).max(axis=1)
        return largest

    @cached_property
    def decided(self) -> NDArray[np.intp]:
        found: NDArray[np.intp] = np.argmax(self.candidate, axis=1)
        return found

    @cached_property
    def wanted(self) -> NDArray[np.intp]:
        found: NDArray[np.intp] = np.argmax(self.reference.logits, axis=1)
        return found

    @cached_property
    def flips(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.decided != self.wanted)

    @cached_property
    def benign(self) -> NDArray[np.bool_]:
        """For each flipped image: whether all its logits are near the reference."""
        return self.in_floors[self.flips] <= BENIGN_FLOORS

    @property
    def real_flips(self) -> int:
        return len(self.flips) - int(np.count_nonzero(self.benign))

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.decided == self.reference.labels))

    @property
    def not_finite(self) -> int:
        """Number of logits that are NaN, or infinite where the reference is not."""
        return int(np.count_nonzero(~np.isfinite(self.distance)))

    @property
    def _finite(self) -> NDArray[np.float64]:
        """Distances, without those of masked classes: logits so large that float32 has no fractions
        at their size."""
        masked = np.abs(self.reference.logits) > 1e30
        usual = self.distance[np.isfinite(self.distance) & ~masked]
        return usual if usual.size else self.distance[np.isfinite(self.distance)]

    @cached_property
    def largest(self) -> float | None:
        found = self.distance[np.isfinite(self.distance)]
        return float(found.max()) if found.size else None

    @property
    def mean(self) -> float | None:
        return float(self._finite.mean()) if self._finite.size else None

    @cached_property
    def rms(self) -> float | None:
        found = self._finite
        if not found.size:
            return None
        largest = float(found.max())
        if largest == 0:
            return 0.0
        return largest * float(np.sqrt(np.mean((found / largest) ** 2)))

    @cached_property
    def largest_in_floors(self) -> float | None:
        found = self.in_floors[np.isfinite(self.in_floors)]
        return float(found.max()) if found.size else None

    @cached_property
    def accuracy_drop(self) -> Bound:
        ours = self.reference.logits.argmax(1) == self.reference.labels
        theirs = self.decided == self.reference.labels
        return accuracy_drop(self.lost(ours, theirs), self.lost(theirs, ours), *self._size)

    @staticmethod
    def lost(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> int:
        return int(np.count_nonzero(ours & ~theirs))

    @property
    def _size(self) -> tuple[int, float]:
        return len(self.decided), self.confidence

    @cached_property
    def flip_rate(self) -> Bound:
        return rate(self.counted_flips, *self._size)

    @property
    def counted_flips(self) -> int:
        """Number of flips that count. Benign flips in fp32 come from PyTorch and do not count."""
        return self.real_flips if self.exact else len(self.flips)

    def flips_beyond(self, gates: Gates) -> tuple[int, Bound]:
        """Return the flips that the gate of the flip rate counts, and their rate. For fp32, flips
        that `max_flips` allows do not count."""
        allowed = (gates.max_flips or 0) if self.exact else 0
        count = max(0, self.counted_flips - allowed)
        return count, rate(count, *self._size)

    def flipped(self, most: int) -> Iterator[Flip]:
        """Return the first flipped images."""
        for index, benign in zip(self.flips[:most], self.benign[:most], strict=True):
            yield Flip(
                index=int(index),
                label=int(self.reference.labels[index]),
                reference=int(self.wanted[index]),
                candidate=int(self.decided[index]),
                margin=self._margin(index),
                distance=finite_or_none(self.in_floors[index]),
                benign=bool(benign),
            )

    def worst(self, most: int) -> Iterator[WorstImage]:
        """Return the images farthest from the reference, flipped ones first."""
        flipped = self.decided != self.wanted
        order = np.lexsort((-self.in_floors, ~flipped))
        for index in order[:most]:
            if self.in_floors[index] == 0:
                return
            yield WorstImage(
                index=int(index),
                label=int(self.reference.labels[index]),
                reference=int(self.wanted[index]),
                candidate=int(self.decided[index]),
                margin=self._margin(index),
                difference=finite_or_none(self.distance[index].max()),
                floors=finite_or_none(self.in_floors[index]),
                reference_top=_top(self.reference.logits[index]),
                candidate_top=_top(self.candidate[index]),
            )

    def _margin(self, index: np.intp) -> float:
        second, first = np.partition(self.reference.logits[index], -2)[-2:]
        return float(min(first - second, np.finfo(np.float64).max))


def _top(logits: NDArray[np.floating]) -> tuple[Score, ...]:
    """Return the highest of `[K]` logits, at most three; NaN comes last."""
    order = np.argsort(-np.where(np.isnan(logits), -np.inf, logits), kind="stable")
    return tuple(
        Score(index=int(each), logit=finite_or_none(logits[each]))
        for each in order[:_SHOWN_CLASSES]
    )


def finite_or_none(value: float | np.floating) -> float | None:
    """Return the value, or None if JSON has no number for it."""
    return float(value) if np.isfinite(value) else None
