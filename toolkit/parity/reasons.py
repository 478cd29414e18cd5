"""Reasons for a verdict as text: why a row fails, why it is undecided, what it cannot show.

In: the numbers of a row and its gates. Out: texts with the value found and the value allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.differences import LogitDifferences
from toolkit.parity.gates import MAX_FLOORS
from toolkit.parity.reference import Reference, unclear
from toolkit.schema import Check, ExpectedError, Gates
from toolkit.statistics.shares import accuracy_drop, needed_images, percent, points, rate

_FEW_CLASSES = 20  # at most this many missing classes are named


def why_not_comparable(reference: Reference, candidate: NDArray[np.floating]) -> str | None:
    """Return why the logits cannot be compared; None if they can.

    An unusable reference would let every candidate pass.
    """
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


def failures(
    numbers: LogitDifferences,
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


def _too_much_error(
    numbers: LogitDifferences, ratio: float, expected: ExpectedError
) -> Iterator[str]:
    found, wanted = numbers.rms or 0.0, expected.rms
    noise = MAX_FLOORS * float(np.median(numbers.reference.floors))
    if found > max(ratio * wanted, noise):
        yield (
            f"the logit error is {found:.2g} (root mean square), "
            f"{found / max(wanted, 1e-300):.1f} times the expected rounding error "
            f"({wanted:.2g}), at most {ratio:g} times allowed"
        )


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """The reason why a row is undecided, and about how many images are needed."""

    text: str
    needed_images: int | None


def doubts(numbers: LogitDifferences, gates: Gates) -> Iterator[Doubt]:
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
        yield Doubt(
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
        yield Doubt(
            text=f"{lost} images lost and {won} gained of {images:,}: accuracy may drop by "
            f"{points(drop.high, beside=gates.max_accuracy_drop)} percentage points, at "
            f"most {points(gates.max_accuracy_drop)} allowed; " + _would_tell(needed),
            needed_images=needed,
        )


def _would_tell(images: int | None) -> str:
    if images is None:
        return "no number of images would be enough"
    return f"about {float(f'{images:.2g}'):,.0f} images are needed"


def remarks(reference: Reference) -> Iterator[str]:
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
