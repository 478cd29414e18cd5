"""Records of a verdict: reference logits against candidate logits."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.session import Attestation
from toolkit.schema.words import Precision, Status


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One image on which candidate and reference decide differently.

    `margin` is the reference's float64 distance between its best and second-best logit;
    `benign` says that it lies below the noise floor, where torch itself is undecided.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    benign: bool


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a parity report must keep to pass. Accuracy drops are fractions (0.001 = 0.1 pp)."""

    max_flips: int | None
    max_accuracy_drop: float | None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Reference logits against candidate logits: the verdict with its evidence.

    Numbers are None where nothing could be compared. Logit differences are in logit units,
    against the reference; `noise_floor` is torch's own float32 distance from it.
    `reference_precision` is fp64, or fp32 where the model has no float64 form.
    """

    runtime: str
    format: str
    precision: Precision
    status: Status
    reason: str | None
    compared: int
    expected: int
    accuracy: float | None
    reference_accuracy: float | None
    argmax_agreement: float | None
    flips: int | None
    benign_flips: int | None
    max_abs_diff: float | None
    mean_abs_diff: float | None
    nan_count: int | None
    noise_floor: float | None
    reference_precision: Precision | None
    gates: Gates
    flipped: tuple[Flip, ...]
    artifact_sha256: str | None
    session: Attestation | None
    stderr_tail: str
