"""Records of a verdict: reference logits compared with candidate logits."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.artifact import ExpectedError
from toolkit.schema.literals import Status
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Attestation


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One image for which candidate and reference predict different classes.

    `margin` is the distance between the reference's best and second-best logit in float64.
    `distance` is how far the candidate's logits of this image are from the reference's, in noise
    floors. `benign` says that this distance is so small that PyTorch's own float32 could predict
    either class.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    benign: bool
    distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The logit of a class; None if it is NaN or infinite."""

    index: int
    logit: float | None


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """One of the images whose logits are farthest from the reference.

    `difference` is in logit units, `floors` in noise floors of the image; None if the candidate
    gave NaN. `reference_top` and `candidate_top` are the classes with the highest logits, at most
    three.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    difference: float | None
    floors: float | None
    reference_top: tuple[Score, ...] = ()
    candidate_top: tuple[Score, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The limits that a parity report must keep to pass; None is no limit.

    Attributes:
        max_flips: Argmax flips that are not benign.
        max_accuracy_drop: As a fraction (0.001 is 0.1 percentage point).
        max_flip_rate: Share of images; its Clopper-Pearson bound must be below.
        max_floors: Distance from the reference in noise floors, for fp32.
        max_logit_diff: In logit units; if given, it replaces `max_floors`.
        max_error_ratio: Root mean square of the logit error divided by the expected one, for other
            precisions than fp32.
        confidence: One-sided confidence level of each bound.
        allow_undecided: Accept a row with too few images to decide.
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
    """An estimated share with its bounds; see `Gates.confidence`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part of the second look: the same session with inputs batched in another way.

    `images_sha256` is the checksum of images made for it; None for images of the data set. `floors`
    is the largest distance from the reference in noise floors, `difference` in logit units.
    `reason` says what is wrong; None if nothing is.
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
    sentence with the evidence, `action` what to check.
    """

    kind: str
    text: str
    action: str


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Reference logits compared with candidate logits: the verdict with its evidence.

    Numbers are None if nothing could be compared. Logit differences are in logit units relative to
    the reference, or in noise floors: the noise floor of an image is the distance of PyTorch's own
    float32 results from the reference on that image. `noise_floor` is the largest of them,
    `typical_noise_floor` their median. `reference_precision` is fp64, or fp32 if the model cannot
    run in float64.

    Attributes:
        embeds_preprocessing: Whether the artifact takes uint8 images; see `Artifact`.
        file: The artifact's file name.
        accuracy_drop: Reference's accuracy minus candidate's, with its exact paired interval.
        flip_rate: Share of flipped images, including benign ones, with its Clopper-Pearson bounds.
        unclear: Images that decide nothing, because PyTorch's own float32 noise is too large there.
        rms_error: Root mean square of the logit error.
        expected_error: Expected rounding error of the precision, if known.
        allowance: A text if a distance gate is not the usual one, with the reason.
        needed_images: About how many images would decide an undecided row.
        remarks: What the data or the model cannot show.
        checks: The second look.
        cause: Of a failure, if one was found.
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
    embeds_preprocessing: bool = False
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
