"""The verdict: reference logits and candidate logits → numbers and a verdict; numpy and scipy only.

fp32 is judged by its distance from the reference in noise floors, image by image, and by its
predictions. Other precisions round more. They are judged by exact bounds of the lost accuracy and
of the changed predictions, and by the expected rounding error. If there are too few images to
decide, the verdict is `undecided`. Nothing passes vacuously.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import FailedRun
from toolkit.parity.gates import BENIGN_FLOORS, MAX_FLOORS
from toolkit.parity.reference import Reference, distances, unclear
from toolkit.schema import (
    EXACT_PRECISIONS,
    Artifact,
    Attestation,
    Bound,
    Check,
    ExpectedError,
    Flip,
    Gates,
    ParityReport,
    Precision,
    WorstImage,
)
from toolkit.statistics.shares import accuracy_drop, needed_images, percent, points, rate

_SHOWN_FLIPS = 20
_SHOWN_WORST = 5
_FEW_CLASSES = 20  # at most this many missing classes are named


def compare(
    reference: Reference,
    candidate: NDArray[np.floating],
    *,
    runtime: str,
    artifact: Artifact,
    gates: Gates,
    session: Attestation | None = None,
    expected_error: ExpectedError | None = None,
    checks: tuple[Check, ...] = (),
) -> ParityReport:
    """Judge candidate logits `[n,K]` of the reference's images, in the same order.

    These fail: n below N, another K, NaN, an infinity that the reference does not have, or an empty
    reference. `expected_error` is the expected rounding error of the artifact's precision.
    """
    expected = len(reference.labels)
    compared = len(candidate) if candidate.ndim == 2 else 0
    report = _empty_report(
        runtime=runtime,
        format=artifact.format,
        precision=artifact.precision,
        gates=gates,
        file=artifact.path,
        artifact_sha256=artifact.sha256,
        session=session,
        compared=compared,
        expected=expected,
    )
    wrong = _why_not_comparable(reference, candidate)
    if wrong is not None:
        return replace(report, status="failed", reason=wrong)
    numbers = _Numbers(
        reference=reference,
        candidate=candidate,
        exact=artifact.precision in EXACT_PRECISIONS,
        confidence=gates.confidence,
    )
    report = replace(
        report,
        accuracy=numbers.accuracy,
        reference_accuracy=reference.accuracy,
        argmax_agreement=1 - len(numbers.flips) / expected,
        flips=len(numbers.flips),
        benign_flips=int(np.count_nonzero(numbers.benign)),
        max_abs_diff=numbers.largest,
        mean_abs_diff=numbers.mean,
        rms_error=numbers.rms,
        max_diff_in_floors=numbers.largest_in_floors,
        nan_count=numbers.not_finite,
        noise_floor=_finite_or_none(reference.floors.max()),
        typical_noise_floor=_finite_or_none(np.median(reference.floors)),
        reference_precision=reference.precision,
        accuracy_drop=numbers.accuracy_drop,
        flip_rate=numbers.flip_rate,
        unclear=int(np.count_nonzero(unclear(reference, MAX_FLOORS))),
        expected_error=expected_error,
        flipped=tuple(numbers.flipped(_SHOWN_FLIPS)),
        worst=tuple(numbers.worst(_SHOWN_WORST)),
        remarks=tuple(_remarks(reference)),
        checks=checks,
    )
    reason = next(_failures(numbers, gates, expected_error, checks), None)
    if reason is not None:
        return replace(report, status="failed", reason=reason)
    doubt = next(_doubts(numbers, gates), None)
    if doubt is not None:
        return replace(
            report, status="undecided", reason=doubt.text, needed_images=doubt.needed_images
        )
    return report


def not_run(
    failure: FailedRun,
    *,
    runtime: str,
    format: str,
    precision: Precision,
    artifact_sha256: str | None,
    expected: int,
    gates: Gates,
    file: str | None = None,
) -> ParityReport:
    """Return the row of a candidate that could not be run: status and stderr, no numbers.

    `artifact_sha256` is None if the artifact could not be exported.
    """
    report = _empty_report(
        runtime=runtime,
        format=format,
        precision=precision,
        gates=gates,
        file=file,
        artifact_sha256=artifact_sha256,
        session=None,
        compared=0,
        expected=expected,
    )
    return replace(
        report, status=failure.status, reason=failure.reason, stderr_tail=failure.stderr_tail
    )


def _empty_report(
    *,
    runtime: str,
    format: str,
    precision: Precision,
    gates: Gates,
    file: str | None,
    artifact_sha256: str | None,
    session: Attestation | None,
    compared: int,
    expected: int,
) -> ParityReport:
    """Return a report without numbers, with the status `passed`."""
    return ParityReport(
        runtime=runtime,
        format=format,
        precision=precision,
        status="passed",
        reason=None,
        compared=compared,
        expected=expected,
        accuracy=None,
        reference_accuracy=None,
        argmax_agreement=None,
        flips=None,
        benign_flips=None,
        max_abs_diff=None,
        mean_abs_diff=None,
        nan_count=None,
        noise_floor=None,
        reference_precision=None,
        gates=gates,
        flipped=(),
        artifact_sha256=artifact_sha256,
        session=session,
        stderr_tail="",
        file=file,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Numbers:
    """Numbers derived from two sets of logits of the same shape."""

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
                distance=_finite_or_none(self.in_floors[index]),
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
                difference=_finite_or_none(self.distance[index].max()),
                floors=_finite_or_none(self.in_floors[index]),
            )

    def _margin(self, index: np.intp) -> float:
        second, first = np.partition(self.reference.logits[index], -2)[-2:]
        return float(min(first - second, np.finfo(np.float64).max))


def _finite_or_none(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def _why_not_comparable(reference: Reference, candidate: NDArray[np.floating]) -> str | None:
    """Return why the logits cannot be compared. An unusable reference would let every candidate
    pass."""
    shape = reference.logits.shape
    if len(shape) != 2 or shape[1] < 2:
        return f"reference logits {list(shape)}, expected two or more classes"
    if np.isnan(reference.logits).any() or np.isposinf(reference.logits).any():
        return "the reference has NaN or infinite logits, so the checkpoint cannot be a reference"
    if not np.isfinite(reference.logits).any(axis=1).all():
        return (
            "the reference has images without a finite logit, so the checkpoint cannot be a "
            "reference"
        )
    if candidate.shape != shape or candidate.size == 0:
        found = list(candidate.shape)
        return f"logits {found}, expected {list(shape)} with at least one image"
    return None


def _failures(
    numbers: _Numbers,
    gates: Gates,
    expected_error: ExpectedError | None,
    checks: tuple[Check, ...],
) -> Iterator[str]:
    """Return the failures with the value found and the value allowed, the most serious first."""
    if numbers.not_finite:
        yield f"{numbers.not_finite} logits are NaN or infinite"
    if gates.max_flips is not None and numbers.real_flips > gates.max_flips:
        yield f"{numbers.real_flips} flips, at most {gates.max_flips} allowed"
    drop = numbers.accuracy_drop
    count, flips = numbers.flips_beyond(gates)
    if gates.max_accuracy_drop is not None and drop.low > gates.max_accuracy_drop:
        yield (
            f"accuracy drops by {points(drop.value)} percentage points, with certainty by at "
            f"least {points(drop.low, beside=gates.max_accuracy_drop)}; at most "
            f"{points(gates.max_accuracy_drop)} allowed"
        )
    if gates.max_flip_rate is not None and flips.low > gates.max_flip_rate:
        yield (
            f"{count} flips of {len(numbers.decided):,} images: with certainty "
            f"{percent(flips.low, beside=gates.max_flip_rate)} or more, at most "
            f"{percent(gates.max_flip_rate)} allowed"
        )
    if gates.max_floors is not None and float(numbers.in_floors.max()) > gates.max_floors:
        yield (
            f"logits are up to {numbers.largest_in_floors:,.0f} noise floors "
            f"({numbers.largest:.1e}) from the checkpoint's, at most {gates.max_floors:,.0f} "
            "allowed"
        )
    if gates.max_logit_diff is not None and (numbers.largest or 0) > gates.max_logit_diff:
        yield (
            f"logits are up to {numbers.largest:.2g} from the checkpoint's, at most "
            f"{gates.max_logit_diff:g} allowed by --max-logit-diff"
        )
    if gates.max_error_ratio is not None and expected_error is not None:
        yield from _too_much_error(numbers, gates.max_error_ratio, expected_error)
    yield from (f"{check.name}: {check.reason}" for check in checks if check.reason is not None)


def _too_much_error(numbers: _Numbers, ratio: float, expected: ExpectedError) -> Iterator[str]:
    found, wanted = numbers.rms or 0.0, expected.rms
    noise = MAX_FLOORS * float(np.median(numbers.reference.floors))
    if found > max(ratio * wanted, noise):
        yield (
            f"the logit error is {found:.2g} (root mean square), "
            f"{found / max(wanted, 1e-300):.1f} times the expected rounding error "
            f"({wanted:.2g}), at most {ratio:g} times allowed"
        )


@dataclass(frozen=True, kw_only=True)
class _Doubt:
    text: str
    needed_images: int | None


def _doubts(numbers: _Numbers, gates: Gates) -> Iterator[_Doubt]:
    """Return what cannot be decided with these images, and how many images are needed."""
    images = len(numbers.decided)
    drop = numbers.accuracy_drop
    count, flips = numbers.flips_beyond(gates)
    if gates.max_flip_rate is not None and flips.high > gates.max_flip_rate:
        needed = needed_images(
            lambda factor: rate(round(count * factor), round(images * factor), numbers.confidence),
            gates.max_flip_rate,
            images=images,
        )
        yield _Doubt(
            text=f"{count} flips of {images:,} images: the flip rate may be "
            f"{percent(flips.high, beside=gates.max_flip_rate)}, at most "
            f"{percent(gates.max_flip_rate)} allowed; " + _would_tell(needed),
            needed_images=needed,
        )
    if gates.max_accuracy_drop is not None and drop.high > gates.max_accuracy_drop:
        ours = numbers.reference.logits.argmax(1) == numbers.reference.labels
        theirs = numbers.decided == numbers.reference.labels
        lost, won = numbers.lost(ours, theirs), numbers.lost(theirs, ours)
        needed = needed_images(
            lambda factor: accuracy_drop(
                round(lost * factor),
                round(won * factor),
                round(images * factor),
                numbers.confidence,
            ),
            gates.max_accuracy_drop,
            images=images,
        )
        yield _Doubt(
            text=f"{lost} images lost and {won} gained of {images:,}: accuracy may drop by "
            f"{points(drop.high, beside=gates.max_accuracy_drop)} percentage points, at "
            f"most {points(gates.max_accuracy_drop)} allowed; " + _would_tell(needed),
            needed_images=needed,
        )


def _would_tell(images: int | None) -> str:
    if images is None:
        return "no number of images would be enough"
    return f"about {float(f'{images:.2g}'):,.0f} images are needed"


def _remarks(reference: Reference) -> Iterator[str]:
    """Return remarks about faults that the data cannot show."""
    decided = np.unique(reference.logits.argmax(1))
    images, classes = reference.logits.shape
    if len(decided) == 1 and images > 1:
        yield (
            f"the checkpoint predicts class {decided[0]} for all {images:,} images: flips and "
            "accuracy cannot show a fault here, only the logits can"
        )
    missing = sorted(set(range(classes)) - set(reference.labels.tolist()))
    if missing and images > 1:
        named = ", ".join(map(str, missing[:_FEW_CLASSES]))
        more = ", ..." if len(missing) > _FEW_CLASSES else ""
        yield f"no image is labelled {named}{more}: nothing is known about these classes"
    dark = int(np.count_nonzero(unclear(reference, MAX_FLOORS)))
    if dark:
        yield (
            f"on {dark:,} of {images:,} images, PyTorch's own float32 noise is as large as the "
            "differences between the logits, so these images decide nothing"
        )
