"""Records of a model: its input, its data, its training, the checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

CHECKPOINT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The input of the model: images `[N,C,H,W]`, scaled to 0..1, then `(x - mean) / std`.

    `mean` and `std` have one value per channel.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to build the model: `package.module:function` and its arguments."""

    factory: str
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Identifies the images: `sha256` maps the name of each IDX file to the checksum of its raw
    bytes."""

    name: str
    split: str
    images: int
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set. `loss` is the mean training loss, `accuracy` that of the test
    set; None if a shorter last epoch follows immediately."""

    number: int
    loss: float
    accuracy: float | None
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How the weights were trained. `options` are the training options as given."""

    options: dict[str, int | float | str | bool]
    epochs: tuple[Epoch, ...]
    accuracy: float
    dataset: DatasetRecord
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CheckpointId:
    """Identifies the model of a checkpoint, and whether an artifact was exported from it.

    The weights alone are not enough: the same weights in another architecture, or with another
    normalisation, give other answers.
    """

    weights_sha256: str
    spec_sha256: str

    def __str__(self) -> str:
        return f"{self.weights_sha256[:12]} (spec {self.spec_sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`checkpoint.json`: everything about trained weights except the weights themselves.

    `sha256` is the checksum of `weights.safetensors` in the same folder.
    """

    schema_version: int
    name: str
    model: ModelSpec
    input: InputSpec
    classes: int
    sha256: str
    training: TrainingRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> CheckpointId:
        """The checksums of the weights and of the spec: factory, input, classes."""
        spec = {"model": asdict(self.model), "input": asdict(self.input), "classes": self.classes}
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        spec_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        return CheckpointId(weights_sha256=self.sha256, spec_sha256=spec_sha256)
