"""Records that export writes: artifacts and their manifest."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.schema.literals import Isa
from toolkit.schema.model import CheckpointId, DatasetRecord
from toolkit.schema.precisions import Precision

MANIFEST_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The images used to calibrate the ranges of an int8 artifact, drawn by `seed` from `dataset`.

    `indices_sha256` is the checksum of their numbers in that data set, as text with commas.
    """

    dataset: DatasetRecord
    images: int
    seed: int
    indices_sha256: str


@dataclass(frozen=True, kw_only=True)
class ExpectedError:
    """The expected distance of logits from the checkpoint's after rounding to an artifact's
    precision.

    `rms` and `largest` are in logit units, over `images` images; `method` describes how they were
    measured. `sha256` is that of the artifact at that time: the values do not apply to other bytes.
    """

    rms: float
    largest: float
    images: int
    method: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One exported file, or folder of files, as `manifest.json` records it.

    Attributes:
        path: Its name, relative to the manifest.
        sha256: Of the bytes of a file, or of the names and checksums in a folder.
        checkpoint_sha256: Of the checkpoint's weights.
        spec_sha256: Of its model factory, input spec and classes.
        batch_sizes: Fixed batch sizes of the files, largest first; empty if any size works.
        calibration: For int8 with measured ranges.
        isas: Instruction sets on which its int8 arithmetic is exact; None is all.
        asked_isas: The requested instruction sets; None is all.
        expected_error: For artifacts that round more than float32, if it was measured.
        embeds_preprocessing: Whether the graph scales and normalises: its input is the uint8 image
            after resizing and cropping.
        warnings: What a user should know about this file, such as a branch that tracing froze.
    """

    format: str
    precision: Precision
    path: str
    size_bytes: int
    sha256: str
    checkpoint_sha256: str
    spec_sha256: str
    input_shape: tuple[int, ...]
    classes: int
    opset: int | None = None
    batch_sizes: tuple[int, ...] = ()
    calibration: Calibration | None = None
    isas: tuple[Isa, ...] | None = None
    asked_isas: tuple[Isa, ...] | None = None
    expected_error: ExpectedError | None = None
    embeds_preprocessing: bool = False
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, Precision, bool]:
        """What tells it from the other artifacts of its checkpoint in a folder: its format, its
        precision, and whether its input is uint8."""
        return self.format, self.precision, self.embeds_preprocessing

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that the artifact was exported from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: the artifacts of one folder and their checkpoint.

    `checkpoint` is the checkpoint folder, relative to the manifest if possible. `class_names` are
    in the order of the logits; empty if they are not known.
    """

    schema_version: int
    checkpoint: str
    checkpoint_sha256: str
    spec_sha256: str
    artifacts: tuple[Artifact, ...]
    class_names: tuple[str, ...] = ()

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that the artifacts were exported from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)
