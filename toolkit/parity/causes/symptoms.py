"""The symptoms of a failed row, and what counts as an explanation; pure functions.

In: reference logits, candidate logits, noise floors. Out: a `Symptoms` record, and `Fit`, the
agreement of the candidate with the prediction of a hypothesis. A hypothesis is accepted only if its
prediction explains the candidate: within some noise floors on all images, or, for precisions that
round more than float32, within the expected rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.gates import MAX_FLOORS
from toolkit.schema import EXACT_PRECISIONS, Check, Precision

_EXPLAINED = 0.25  # share of the error that may remain
_EXPLAINED_BLIND = 0.1  # ... if the expected size of the error is unknown
_INEXACT = 1.5  # times the expected error of the precision
_FAR_OFF = 8.0  # times that error: an image that rounding does not explain
_DATA_PER_PARAMETER = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Symptoms:
    """A candidate's logits and the reference's, for one failed row.

    Attributes:
        reference: Logits `[N,K]`; -inf or huge values for masked classes.
        candidate: Logits `[N,K]` of the same images; may hold NaN.
        floors: Noise floor of each image `[N]`, in logit units.
        labels: `[N]`.
        batch_size: Of the calls that gave `candidate`, in the order of the images.
        precision: The candidate's precision.
        tolerance_floors: A prediction explains a candidate that lies within this many floors of it.
        expected_rms: Expected root mean square of the logit error, if known; only for precisions
            that round more than float32.
        checks: The second look.
        repeatable: Whether the same images gave the same logits again; None if not tried.
    """

    reference: NDArray[np.float64]
    candidate: NDArray[np.floating]
    floors: NDArray[np.float64]
    labels: NDArray[np.int64]
    batch_size: int
    precision: Precision
    tolerance_floors: float = MAX_FLOORS
    expected_rms: float | None = None
    checks: tuple[Check, ...] = ()
    repeatable: bool | None = None

    @property
    def images(self) -> int:
        """Number of images, N."""
        return len(self.reference)

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return int(self.reference.shape[1])

    @property
    def comparable(self) -> bool:
        """Whether both are logits `[N,K]` of at least one image and two classes."""
        same = self.candidate.shape == self.reference.shape
        return same and self.reference.ndim == 2 and self.images > 0 and self.classes > 1

    @property
    def exact(self) -> bool:
        """Whether the candidate should give the reference's logits except for float32 rounding."""
        return self.precision in EXACT_PRECISIONS

    @cached_property
    def difference(self) -> NDArray[np.float64]:
        """`|candidate - reference|` `[N,K]`; see `distance`."""
        return distance(self.candidate, self.reference)

    @cached_property
    def wrong(self) -> NDArray[np.bool_]:
        """Images `[N]` that neither noise nor the precision explains."""
        return ~self.near(self.difference)

    @cached_property
    def positions(self) -> NDArray[np.intp]:
        """Position `[N]` of each image in its batch."""
        return np.arange(self.images) % self.batch_size

    def near(
        self, difference: NDArray[np.float64], rows: NDArray[np.intp] | None = None
    ) -> NDArray[np.bool_]:
        """Return the images whose logits are so close that nothing is left to explain.

        `difference` is `[n,K]`, of the images `rows`, or of all.
        """
        largest = difference.max(axis=1)
        floors = self.floors if rows is None else self.floors[rows]
        if self.exact:
            return np.asarray(largest <= self.tolerance_floors * floors)
        limit = self.expected_rms
        if limit is None:  # a hundredth of the spread of the logits, roughly the cost of 8 bits
            limit = 0.01 * _spread(self.reference)
        return np.asarray(largest <= max(_FAR_OFF * limit, float(floors.max(initial=0))))

    def of(self, rows: NDArray[np.intp]) -> Symptoms:
        """Return the symptoms of some images, in this order; facts about whole batches are
        dropped."""
        return replace(
            self,
            reference=self.reference[rows],
            candidate=self.candidate[rows],
            floors=self.floors[rows],
            labels=self.labels[rows],
            checks=(),
        )

    def _enlarged(
        self, predicted: NDArray[np.float64], rows: NDArray[np.intp] | None
    ) -> NDArray[np.float64]:
        """Return how many times larger the predicted logits of each image are than the reference's;
        their noise is larger by the same factor."""
        reference = self.reference if rows is None else self.reference[rows]
        sizes = [
            np.abs(np.nan_to_num(each, posinf=0, neginf=0)).max(axis=1)
            for each in (predicted, reference)
        ]
        return np.asarray(np.maximum(1, sizes[0] / np.maximum(sizes[1], 1e-300)))

    def fit(
        self,
        predicted: NDArray[np.float64],
        *,
        gain: float = 1.0,
        parameters: int = 0,
        rows: NDArray[np.intp] | None = None,
    ) -> Fit | None:
        """Return how well `predicted` `[n,K]` explains the candidate's logits of `rows`; None if it
        does not.

        `gain` is the factor by which the hypothesis enlarges errors of the reference's logits;
        `parameters` is the number of fitted values.
        """
        candidate = self.candidate if rows is None else self.candidate[rows]
        floors = self.floors if rows is None else self.floors[rows]
        before = self.difference if rows is None else self.difference[rows]
        if candidate.size < max(2, _DATA_PER_PARAMETER * parameters):
            return None
        if not before.any() or (self.exact and self.near(before, rows).all()):
            return None  # nothing to explain
        residual = distance(candidate, predicted)
        left, was = root_mean_square(residual), root_mean_square(before)
        share = _EXPLAINED if self.exact or self.expected_rms is not None else _EXPLAINED_BLIND
        varies = _variation(candidate)
        if not np.isfinite(left) or not left <= share * min(
            was, varies if np.isfinite(varies) else was
        ):
            return None
        if self.exact:
            limit = gain * self.tolerance_floors * floors * self._enlarged(predicted, rows)
            if not (residual.max(axis=1) <= limit).all():
                return None
        elif self.expected_rms is not None and left > _INEXACT * max(gain, 0) * self.expected_rms:
            return None
        return Fit(images=len(candidate), largest=float(residual.max()), rms=left, rms_before=was)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The agreement of a prediction with the candidate; differences in logit units."""

    images: int
    largest: float
    rms: float
    rms_before: float

    def words(self, symptoms: Symptoms) -> str:
        """Describe the agreement, for the end of a sentence."""
        if symptoms.exact:
            return f"they agree to {number(self.largest)} on {count(self.images, 'image')}"
        return (
            f"the remaining error is {number(self.rms)} (root mean square), before "
            f"{number(self.rms_before)}, on {count(self.images, 'image')}"
        )


def distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return `|first - second|`; 0 if both are the same infinity, infinite if one is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(first.astype(np.float64) - second)
    difference[first == second] = 0
    difference[np.isnan(difference)] = np.inf
    return difference


def root_mean_square(values: NDArray[np.floating]) -> float:
    """Return the root mean square of all finite or infinite `values`; 0 if there are none."""
    if values.size == 0:
        return 0.0
    largest = float(np.abs(values).max())
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.mean(np.square(values / largest))))


def count(items: int, noun: str) -> str:
    """Return a text such as `1 image`, `10,000 images`, `3 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{items:,} {noun if items == 1 else plural}"


def number(value: float) -> str:
    """Return two digits: `3.1e-07`, `0.12`, `26`."""
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def numbers(values: NDArray[np.integer] | list[int], *, most: int = 6) -> str:
    """Return a text such as `3`, `3 and 5`, `3 to 7`, `1, 2, 5, 9, 12, 13 and 40 more`."""
    given = [int(each) for each in values]
    if len(given) > 2 and given == list(range(given[0], given[-1] + 1)):
        return f"{given[0]:,} to {given[-1]:,}"
    shown = [f"{each:,}" for each in given[:most]]
    if len(given) > most:
        return f"{', '.join(shown)} and {len(given) - most:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _variation(logits: NDArray[np.floating]) -> float:
    """Return the root mean square of the logits around the mean of their class; infinite ones do
    not count."""
    finite = np.isfinite(logits).all(axis=0)
    kept = logits[:, finite].astype(np.float64)
    return root_mean_square(kept - kept.mean(axis=0)) if kept.size else 0.0


def _spread(logits: NDArray[np.float64]) -> float:
    finite = logits[np.isfinite(logits)]
    return float(np.ptp(finite)) if finite.size else 0.0
