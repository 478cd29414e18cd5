"""The verdict: reference logits and candidate logits → numbers and a verdict; numpy and scipy only.

fp32 is judged by its distance from the reference in noise floors, image by image, and by its
predictions. Other precisions round more. They are judged by exact bounds of the lost accuracy and
of the changed predictions, and by the expected rounding error. If there are too few images to
decide, the verdict is `undecided`. Nothing passes vacuously.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import FailedRun
from toolkit.parity.differences import LogitDifferences, finite_or_none
from toolkit.parity.gates import MAX_FLOORS
from toolkit.parity.reasons import doubts, failures, remarks, why_not_comparable
from toolkit.parity.reference import Reference, unclear
from toolkit.schema import (
    EXACT_PRECISIONS,
    Artifact,
    Attestation,
    Check,
    ExpectedError,
    Gates,
    ParityReport,
    Precision,
)

_SHOWN_FLIPS = 20
_SHOWN_WORST = 5


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
        embeds_preprocessing=artifact.embeds_preprocessing,
        gates=gates,
        file=PurePath(artifact.path).name,  # a checkpoint has the path of a folder
        artifact_sha256=artifact.sha256,
        session=session,
        compared=compared,
        expected=expected,
    )
    wrong = why_not_comparable(reference, candidate)
    if wrong is not None:
        return replace(report, status="failed", reason=wrong)
    numbers = LogitDifferences(
        reference=reference,
        candidate=candidate,
        exact=artifact.precision in EXACT_PRECISIONS,
        confidence=gates.confidence,
    )
    report = _with_numbers(report, numbers)
    report = replace(report, expected_error=expected_error, checks=checks)
    reason = next(failures(numbers, gates, expected_error, checks), None)
    if reason is not None:
        return replace(report, status="failed", reason=reason)
    doubt = next(doubts(numbers, gates), None)
    if doubt is not None:
        return replace(
            report, status="undecided", reason=doubt.text, needed_images=doubt.needed_images
        )
    return report


def _with_numbers(report: ParityReport, numbers: LogitDifferences) -> ParityReport:
    """Return a report with everything that was compared, not yet judged."""
    reference = numbers.reference
    return replace(
        report,
        accuracy=numbers.accuracy,
        reference_accuracy=reference.accuracy,
        argmax_agreement=1 - len(numbers.flips) / len(reference.labels),
        flips=len(numbers.flips),
        benign_flips=int(np.count_nonzero(numbers.benign)),
        max_abs_diff=numbers.largest,
        mean_abs_diff=numbers.mean,
        rms_error=numbers.rms,
        max_diff_in_floors=numbers.largest_in_floors,
        nan_count=numbers.not_finite,
        noise_floor=finite_or_none(reference.floors.max()),
        typical_noise_floor=finite_or_none(np.median(reference.floors)),
        reference_precision=reference.precision,
        accuracy_drop=numbers.accuracy_drop,
        flip_rate=numbers.flip_rate,
        unclear=int(np.count_nonzero(unclear(reference, MAX_FLOORS))),
        flipped=tuple(numbers.flipped(_SHOWN_FLIPS)),
        worst=tuple(numbers.worst(_SHOWN_WORST)),
        remarks=tuple(remarks(reference)),
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
    embeds_preprocessing: bool = False,
    file: str | None = None,
) -> ParityReport:
    """Return the row of a candidate that could not be run: status and stderr, no numbers.

    `artifact_sha256` is None if the artifact could not be exported.
    """
    report = _empty_report(
        runtime=runtime,
        format=format,
        precision=precision,
        embeds_preprocessing=embeds_preprocessing,
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
    embeds_preprocessing: bool,
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
        embeds_preprocessing=embeds_preprocessing,
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
