"""Records of what export writes: artifacts and their manifest."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.schema.literals import Isa
from toolkit.schema.model import CheckpointId, DatasetRecord
from toolkit.schema.precisions import Precision

MANIFEST_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which images the ranges of an int8 artifact were measured on, drawn by `seed` from `dataset`.

    `indices_sha256` is the checksum of their numbers in that data set, as text with commas.
    """

    dataset: DatasetRecord
    images: int
    seed: int
    indices_sha256: str


@dataclass(frozen=True, kw_only=True)
class ExpectedError:
    """How far rounding to an artifact's precision should move logits from the checkpoint's.

    `rms` and `largest` are in logit units, over `images` images; `method` says in words how they
    were found. `sha256` is the artifact's when they were: they say nothing of other bytes.
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
        path: Its name, beside the manifest.
        sha256: Of the file's bytes; of a folder, of its files' names and checksums.
        checkpoint_sha256: Of the checkpoint's weights.
        spec_sha256: Of its model factory, input spec and classes.
        batch_sizes: What the file computes at a time, largest first, where it is fixed; else any.
        calibration: Of int8 whose ranges were measured.
        isas: Instruction sets on which its int8 arithmetic is exact; None is all.
        asked_isas: Those that were asked for; None is all.
        expected_error: Of artifacts that round more than float32 does, where it was measured.
    """

    format: str
    precision: Precision
    path: str
    size_bytes: int
    sha256: str
    checkpoint_sha256: str
    spec_sha256: str
    input_shape: tuple[int, int, int]
    classes: int
    opset: int | None = None
    batch_sizes: tuple[int, ...] = ()
    calibration: Calibration | None = None
    isas: tuple[Isa, ...] | None = None
    asked_isas: tuple[Isa, ...] | None = None
    expected_error: ExpectedError | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that it was made from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: the artifacts of one folder and the checkpoint they came from.

    `checkpoint` is the checkpoint folder, relative to the manifest where that is possible.
    """

    schema_version: int
    checkpoint: str
    checkpoint_sha256: str
    spec_sha256: str
    artifacts: tuple[Artifact, ...]

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that the artifacts were made from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)
