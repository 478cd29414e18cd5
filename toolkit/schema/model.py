"""Records of a model: its input, its data, how its weights came about, the checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

CHECKPOINT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the model eats: images `[N,C,H,W]`, scaled to 0..1, then `(x - mean) / std`.

    `mean` and `std` have one value a channel.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to build the model: `package.module:function` and the arguments it is called with."""

    factory: str
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Which images: `sha256` maps each IDX file's name to the checksum of its raw bytes."""

    name: str
    split: str
    images: int
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set; `loss` is the mean training loss, `accuracy` the test's; None
    where a shorter last epoch follows at once."""

    number: int
    loss: float
    accuracy: float | None
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How the weights came about. `options` are the training options as given."""

    options: dict[str, int | float | str | bool]
    epochs: tuple[Epoch, ...]
    accuracy: float
    dataset: DatasetRecord
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CheckpointId:
    """Which model a checkpoint is, and so whether an artifact was made from it.

    The weights alone do not say it: the same ones in another architecture, or behind another
    normalisation, answer differently.
    """

    weights_sha256: str
    spec_sha256: str

    def __str__(self) -> str:
        return f"{self.weights_sha256[:12]} (spec {self.spec_sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`checkpoint.json`: everything about trained weights but the weights themselves.

    `sha256` is the checksum of `weights.safetensors` beside it.
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
        """The weights' checksum, and that of what makes them a model: factory, input, classes."""
        spec = {"model": asdict(self.model), "input": asdict(self.input), "classes": self.classes}
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        spec_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        return CheckpointId(weights_sha256=self.sha256, spec_sha256=spec_sha256)
