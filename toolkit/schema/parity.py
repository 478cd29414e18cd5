"""Records of a verdict: reference logits against candidate logits."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.artifact import ExpectedError
from toolkit.schema.literals import Status
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Attestation


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One image on which candidate and reference decide differently.

    `margin` is the reference's float64 distance between its best and second-best logit; `distance`
    is how far the candidate's logits of this image are from the reference's, in noise floors.
    `benign` says that this distance is so small that torch's own float32 could decide either way.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    benign: bool
    distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """One of the images whose logits are farthest from the reference.

    `difference` is in logit units, `floors` in noise floors of the image; None where the candidate
    gave NaN.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    difference: float | None
    floors: float | None


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a parity report must keep to pass; None is no gate.

    Attributes:
        max_flips: Argmax flips that are not benign.
        max_accuracy_drop: As a fraction (0.001 is 0.1 percentage point).
        max_flip_rate: Share of images; its Clopper-Pearson bound must be below.
        max_floors: Distance from the reference in noise floors, for fp32.
        max_logit_diff: In logit units; where it is given it replaces `max_floors`.
        max_error_ratio: Root mean square of the logit error over the one that the precision should
            have, for other precisions than fp32.
        confidence: Of each bound, one-sided.
        allow_undecided: Accept a row whose images are too few to decide.
    """

    max_flips: int | None = None
    max_accuracy_drop: float | None = None
    max_flip_rate: float | None = None
    max_floors: float | None = None
    max_logit_diff: float | None = None
    max_error_ratio: float | None = None
    confidence: float = 0.975
    allow_undecided: bool = False


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An estimate as a share, with the bounds that hold it; see `Gates.confidence`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part of the second look: the same session once more, fed in another way.

    `images_sha256` is the checksum of images that were made for it, None for the data set's own.
    `floors` is the largest distance from the reference in noise floors, `difference` in logit
    units. `reason` says what is wrong, and is None where all is well.
    """

    name: str
    images: int
    batch_size: int
    difference: float | None
    floors: float | None
    reason: str | None
    images_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a row failed, as far as its numbers show it.

    `kind` is a word for scripts (`softmax`, `classes permuted`, `not normalised` ...), `text` a
    sentence with the evidence, `action` what to look at.
    """

    kind: str
    text: str
    action: str


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Reference logits against candidate logits: the verdict with its evidence.

    Numbers are None where nothing could be compared. Logit differences are in logit units against
    the reference, or in noise floors: an image's noise floor is torch's own float32 distance from
    the reference there. `noise_floor` is the largest of them, `typical_noise_floor` their median.
    `reference_precision` is fp64, or fp32 where the model has no float64 form.

    Attributes:
        file: The artifact's file name.
        accuracy_drop: Reference's accuracy minus candidate's, with its exact paired interval.
        flip_rate: Share of flipped images, benign ones included, with its Clopper-Pearson bounds.
        unclear: Images on which torch's own float32 noise is so large that they decide nothing.
        rms_error: Root mean square of the logit error.
        expected_error: What the precision should give, where it is known.
        allowance: In words, where a distance gate is not the usual one, and why.
        needed_images: About how many images would decide an undecided row.
        remarks: What the data or the model cannot show.
        checks: The second look.
        cause: Of a failure, where one was found.
        worst: The images farthest from the reference.
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
    file: str | None = None
    max_diff_in_floors: float | None = None
    typical_noise_floor: float | None = None
    accuracy_drop: Bound | None = None
    flip_rate: Bound | None = None
    unclear: int | None = None
    rms_error: float | None = None
    expected_error: ExpectedError | None = None
    allowance: str | None = None
    needed_images: int | None = None
    remarks: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    cause: Cause | None = None
    worst: tuple[WorstImage, ...] = ()
