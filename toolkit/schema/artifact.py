"""Records of what export writes: artifacts and their manifest."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.schema.model import CheckpointId
from toolkit.schema.words import Precision

MANIFEST_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One exported file, as `manifest.json` records it; `path` is relative to the manifest.

    `checkpoint_sha256` is the checksum of the checkpoint's weights, `spec_sha256` that of its
    model factory, input spec and classes.
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
