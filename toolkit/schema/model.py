"""Records of a model: its input, its data, its training, the checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECKPOINT_SCHEMA_VERSION = 1

Inputs: TypeAlias = "NDArray[np.float32] | NDArray[np.uint8]"
"""A batch `[N,...]` as an artifact takes it: float32, normalised; or uint8 if the preprocessing is
a part of its graph."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The input of the model, and the preprocessing that makes it from a raw sample.

    A sample of dtype uint8 is an image: it is resized, cropped, brought into the order of
    `colours`, and scaled to 0..1. A sample of dtype float32 is used as it is. Both are then
    normalised: `(x - mean) / std`.

    Attributes:
        shape: Of one sample as the model gets it: `[C,H,W]` for images.
        mean: One value per channel, the first dimension of `shape`.
        std: One value per channel.
        dtype: Of raw samples.
        colours: The order of the three channels that the model expects. Raw images are RGB.
        resize: Size in pixels before the crop: one value for the shorter side, or height and width;
            empty if images are not resized.
        crop: Height and width of the part that is cut from the centre; None if nothing is cut.
        interpolation: Method of resizing.
        antialias: Whether resizing averages over all pixels that a smaller image combines, as
            Pillow does.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Literal["uint8", "float32"] = "uint8"
    colours: Literal["RGB", "BGR"] = "RGB"
    resize: tuple[int, ...] = ()
    crop: tuple[int, int] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to build the model: `package.module:function` and its arguments.

    `output` chooses one of several outputs: the name of an attribute or a key, or a position. With
    `one_logit`, the model returns one logit `z` for each sample, and the two classes get the logits
    `[0, z]`.
    """

    factory: str
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)
    output: str | int | None = None
    one_logit: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Identifies the images: `sha256` maps the name of each file or array to the checksum of its
    raw bytes. `notes` say how they were read: layout, channels, bit depth, what was skipped.
    `drawn_from` is the number of images that `images` were drawn from; None if they are all."""

    name: str
    split: str
    images: int
    sha256: dict[str, str]
    notes: tuple[str, ...] = ()
    drawn_from: int | None = None


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

    `sha256` is the checksum of `weights.safetensors` in the same folder. `class_names` are in the
    order of the logits; empty if they are not known. `denormals` is the share of denormal values in
    each tensor that has many; see `toolkit.checkpoints.denormals`.
    """

    schema_version: int
    name: str
    model: ModelSpec
    input: InputSpec
    classes: int
    sha256: str
    class_names: tuple[str, ...] = ()
    denormals: dict[str, float] = field(default_factory=dict)
    training: TrainingRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> CheckpointId:
        """The checksums of the weights and of the spec: factory, input, classes."""
        spec = {
            "model": _given(self.model),
            "input": _given(self.input),
            "classes": self.classes,
        }
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        spec_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        return CheckpointId(weights_sha256=self.sha256, spec_sha256=spec_sha256)


def _given(spec: ModelSpec | InputSpec) -> dict[str, Any]:
    """Return the fields whose value is not the default, so that a new field with a default does not
    change the checksums of existing checkpoints."""
    defaults = {each.name: each.default for each in fields(spec) if each.default is not MISSING}
    return {
        name: value
        for name, value in asdict(spec).items()
        if name not in defaults or value != defaults[name]
    }
