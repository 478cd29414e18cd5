"""Parity: reference logits and candidate logits → numbers and a verdict. Pure; numpy only.

The reference is the checkpoint in float64. Its distance from torch's own float32 results is the
noise floor: an argmax that flips where the float64 margin lies below that floor is benign, since
torch itself is undecided there; but only if the candidate's own logits of that image are near the
reference. Nothing passes vacuously.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import FailedRun
from toolkit.schema import Artifact, Attestation, Flip, Gates, ParityReport, Precision

_SHOWN_FLIPS = 20
# A runtime that sums in another order than torch was seen up to 2.2 noise floors away.
_NEAR_IN_FLOORS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Logits `[N,K]` of the checkpoint and labels `[N]`; `noise_floor` in logit units.

    `precision` is fp64, or fp32 where the model has no float64 form.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    noise_floor: float
    precision: Precision = "fp64"

    @property
    def accuracy(self) -> float:
        """Share of images that the reference classifies as labelled."""
        return float(np.mean(self.logits.argmax(1) == self.labels))


def default_gates(
    precision: Precision, *, max_flips: int | None = None, max_accuracy_drop: float | None = None
) -> Gates:
    """The gates of a precision: fp32 flips nothing; others lose at most 0.1 percentage point.

    A gate that is given replaces the default; the other default then stands only for its own
    precision. `max_accuracy_drop` is a fraction.
    """
    exact = precision in ("fp32", "fp64")
    if max_flips is None and exact:
        max_flips = 0
    if max_accuracy_drop is None and not exact:
        max_accuracy_drop = 0.001
    return Gates(max_flips=max_flips, max_accuracy_drop=max_accuracy_drop)


def noise_floor(reference: NDArray[np.floating], float32_runs: list[NDArray[np.floating]]) -> float:
    """Largest distance of torch's float32 logits, over threads and batch sizes, from float64.

    All arrays are `[N,K]`. Raises ValueError where there is nothing to compare.
    """
    if not float32_runs or reference.size == 0:
        raise ValueError("the noise floor needs at least one float32 run of at least one image")
    return float(np.max([np.abs(run - reference).max() for run in float32_runs]))


def compare(
    reference: Reference,
    candidate: NDArray[np.floating],
    *,
    runtime: str,
    artifact: Artifact,
    gates: Gates,
    session: Attestation | None = None,
) -> ParityReport:
    """Judge candidate logits `[n,K]` of the reference's images, in the same order.

    n below N, another K, NaN on either side, one class, or an empty reference fail.
    """
    expected = len(reference.labels)
    compared = len(candidate) if candidate.ndim == 2 else 0
    numbers = _numbers(reference, candidate) if _comparable(reference, candidate) else None
    reason = _why_not_comparable(reference) or _why_failed(reference, candidate, numbers, gates)
    return ParityReport(
        runtime=runtime,
        format=artifact.format,
        precision=artifact.precision,
        status="failed" if reason else "passed",
        reason=reason,
        compared=compared,
        expected=expected,
        accuracy=numbers.accuracy if numbers else None,
        reference_accuracy=reference.accuracy if expected else None,
        argmax_agreement=1 - numbers.flips / expected if numbers else None,
        flips=numbers.flips if numbers else None,
        benign_flips=numbers.benign_flips if numbers else None,
        max_abs_diff=numbers.max_abs_diff if numbers else None,
        mean_abs_diff=numbers.mean_abs_diff if numbers else None,
        nan_count=numbers.nan_count if numbers else None,
        noise_floor=reference.noise_floor if np.isfinite(reference.noise_floor) else None,
        reference_precision=reference.precision,
        gates=gates,
        flipped=numbers.flipped if numbers else (),
        artifact_sha256=artifact.sha256,
        session=session,
        stderr_tail="",
    )


def not_run(
    failure: FailedRun,
    *,
    runtime: str,
    format: str,
    precision: Precision,
    artifact_sha256: str | None,
    expected: int,
    gates: Gates,
) -> ParityReport:
    """The row of a candidate that could not be run: no numbers, the status, and its stderr.

    `artifact_sha256` is None where the artifact could not even be exported.
    """
    return ParityReport(
        runtime=runtime,
        format=format,
        precision=precision,
        status=failure.status,
        reason=failure.reason,
        compared=0,
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
        session=None,
        stderr_tail=failure.stderr_tail,
    )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    accuracy: float
    max_abs_diff: float | None
    mean_abs_diff: float | None
    nan_count: int
    flips: int
    benign_flips: int
    flipped: tuple[Flip, ...]


def _comparable(reference: Reference, candidate: NDArray[np.floating]) -> bool:
    if _why_not_comparable(reference):
        return False
    return candidate.shape == reference.logits.shape and candidate.size > 0


def _numbers(reference: Reference, candidate: NDArray[np.floating]) -> _Numbers:
    finite = np.isfinite(candidate)
    distance = np.abs(candidate - reference.logits)[finite]
    decided, wanted = candidate.argmax(1), reference.logits.argmax(1)
    flips = np.flatnonzero(decided != wanted)
    margins, benign = _undecided(reference, candidate, flips)
    flipped = [
        Flip(
            index=int(index),
            label=int(reference.labels[index]),
            reference=int(wanted[index]),
            candidate=int(decided[index]),
            margin=float(margin),
            distance=None,
            benign=bool(undecided),
        )
        for index, margin, undecided in zip(
            flips[:_SHOWN_FLIPS], margins[:_SHOWN_FLIPS], benign[:_SHOWN_FLIPS], strict=True
        )
    ]
    return _Numbers(
        accuracy=float(np.mean(decided == reference.labels)),
        max_abs_diff=float(distance.max()) if distance.size else None,
        mean_abs_diff=float(distance.mean()) if distance.size else None,
        nan_count=int(candidate.size - np.count_nonzero(finite)),
        flips=len(flips),
        benign_flips=int(np.count_nonzero(benign)),
        flipped=tuple(flipped),
    )


def _undecided(
    reference: Reference, candidate: NDArray[np.floating], flips: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of each flipped image: the reference's margin, and whether the flip is benign."""
    top = np.partition(reference.logits[flips], -2, axis=1)
    margins = top[:, -1] - top[:, -2]
    distance = np.abs(candidate[flips] - reference.logits[flips]).max(axis=1)
    near = distance <= _NEAR_IN_FLOORS * reference.noise_floor  # False where it is NaN
    return margins, (margins < reference.noise_floor) & near


def _why_not_comparable(reference: Reference) -> str | None:
    """A reference that cannot tell candidates apart would let them all pass."""
    if reference.logits.ndim != 2 or reference.logits.shape[1] < 2:
        shape = list(reference.logits.shape)
        return f"reference logits {shape}, expected two or more classes"
    if not (np.isfinite(reference.logits).all() and np.isfinite(reference.noise_floor)):
        return "the reference has NaN or infinite logits: the checkpoint is no reference"
    decided = reference.logits.argmax(1)
    if len(decided) > 1 and (decided == decided[0]).all():
        return (
            f"the reference decides for class {decided[0]} on all {len(decided)} images: "
            "such data cannot tell models apart"
        )
    return None


def _why_failed(
    reference: Reference, candidate: NDArray[np.floating], numbers: _Numbers | None, gates: Gates
) -> str | None:
    """None where all gates are kept; else what was found and what was allowed."""
    if numbers is None:
        found, wanted = list(candidate.shape), list(reference.logits.shape)
        return f"logits {found}, expected {wanted} with at least one image"
    if numbers.nan_count:
        return f"{numbers.nan_count} logits are NaN or infinite"
    real = numbers.flips - numbers.benign_flips
    if gates.max_flips is not None and real > gates.max_flips:
        return f"{real} flips, at most {gates.max_flips} allowed"
    drop = reference.accuracy - numbers.accuracy
    # A drop of exactly the gate passes in spite of rounding.
    if gates.max_accuracy_drop is not None and drop > gates.max_accuracy_drop + 1e-9:
        return (
            f"accuracy drops by {100 * drop:.2f} percentage points, "
            f"at most {100 * gates.max_accuracy_drop:.2f} allowed"
        )
    return None
