"""The input spec of a checkpoint, from what the user says and from a preprocessing.

In: options, and what a preset or a transform says. Out: an `InputSpec`, and its check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from toolkit.errors import CheckpointError
from toolkit.schema import InputSpec

_MOST_VALUES = 1 << 28  # of one sample, 1 GiB as float32: more is a mistake, or an attack
_PAGE = "docs/own-models.md"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is known about the input of a model; None where nothing is.

    Attributes:
        shape: Of one sample as the model gets it.
        channels: First dimension of the shape, if only that is known.
        mean: One value per channel, or one for all.
        std: One value per channel, or one for all.
        dtype: Of raw samples.
        colours: Order of the channels.
        resize: One value for the shorter side, or height and width.
        crop: One value for both sides, or height and width.
        interpolation: Method of resizing.
        antialias: Whether resizing averages.
        class_names: In the order of the logits; empty if they are not known.
    """

    shape: tuple[int, ...] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Literal["uint8", "float32"] | None = None
    colours: Literal["RGB", "BGR"] | None = None
    resize: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    antialias: bool | None = None
    class_names: tuple[str, ...] = ()

    def over(self, other: Preprocessing) -> Preprocessing:
        """Return what this says, and what `other` says where this says nothing."""
        names = [each.name for each in fields(self)]
        found = {name: getattr(self, name) for name in names}
        return Preprocessing(
            **{n: getattr(other, n) if found[n] in (None, ()) else found[n] for n in names}
        )

    def spec(self) -> InputSpec:
        """Return the input spec, to be checked with `check_input_spec`.

        Raises:
            CheckpointError: Something is missing; names the option.
        """
        shape = self._shape()
        dtype = self.dtype or "uint8"
        mean, std = self.mean, self.std
        if dtype == "float32":  # by default, such samples are used as they are
            mean, std = mean or (0.0,), std or (1.0,)
        missing = [flag for flag, value in (("--mean", mean), ("--std", std)) if value is None]
        if mean is None or std is None:
            raise CheckpointError(
                f"{' and '.join(missing)} missing; give one value per channel, for pixels in 0..1, "
                "such as --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5, or --mean 0 --std 1 if the model "
                "gets pixels in 0..1; or take them from --preprocess torchvision:MODEL"
            )
        if dtype == "uint8" and max(mean, default=0) > 1:
            scaled = [",".join(f"{each / 255:.4g}" for each in values) for values in (mean, std)]
            raise CheckpointError(
                f"--mean {','.join(f'{each:g}' for each in mean)}: expected values for pixels in "
                "0..1; if these are for pixels in 0..255, divide them by 255: "
                f"--mean {scaled[0]} --std {scaled[1]}"
            )
        return InputSpec(
            shape=shape,
            mean=_per_channel(mean, shape),
            std=_per_channel(std, shape),
            dtype=dtype,
            colours=self.colours or "RGB",
            resize=self.resize or (),
            crop=None if self.crop is None else _both(self.crop),
            interpolation=self.interpolation or "bilinear",
            antialias=True if self.antialias is None else self.antialias,
        )

    def _shape(self) -> tuple[int, ...]:
        if self.shape is not None:
            return self.shape
        channels = self.channels or len(self.mean or ())
        size = self.crop or self.resize
        if not channels or size is None or (size is self.resize and len(size) == 1):
            raise CheckpointError(
                "--input-shape missing; give the shape of one sample as the model gets it, such as "
                "--input-shape 3,224,224, or take it from --preprocess torchvision:MODEL"
            )
        return (channels, *_both(size))


def _both(size: tuple[int, ...]) -> tuple[int, int]:
    if len(size) not in (1, 2):
        raise CheckpointError(f"size {list(size)}: expected one value, or height and width")
    return (size[0], size[-1])


def _per_channel(values: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """Return one value per channel if there is one for all."""
    return values * shape[0] if len(values) == 1 and shape and shape[0] > 0 else values


def check_input_spec(spec: InputSpec, where: object) -> None:
    """Raise CheckpointError if an input spec does not describe an input; `where` is its place."""
    problem = _problem_of_shape(spec) or _problem_of_values(spec) or _problem_of_sizes(spec)
    if problem is not None:
        raise CheckpointError(f"{where}: {problem}")


def _problem_of_shape(spec: InputSpec) -> str | None:
    shape = list(spec.shape)
    if not shape:
        return "input shape [], expected the shape of one sample"
    if math.prod(spec.shape) > _MOST_VALUES:
        return (
            f"input shape {shape} has more than {_MOST_VALUES:,} values; expected [channels, "
            "height, width] of one image: correct --input-shape"
        )
    if spec.dtype == "uint8" and len(shape) != 3:
        return (
            f"input shape {shape} is not that of an image [channels, height, width]; for audio "
            "[C,T], features [F] and other inputs, add --input-dtype float32, and give samples as "
            f".npz: see {_PAGE}"
        )
    return None


def _problem_of_values(spec: InputSpec) -> str | None:
    channels = spec.shape[0]
    if min(spec.shape) < 1 or len(spec.mean) != channels or len(spec.std) != channels:
        return (
            f"input spec has shape {list(spec.shape)}, mean {list(spec.mean)} and std "
            f"{list(spec.std)}; expected positive sizes, and one mean and std per channel"
        )
    if not all(value > 0 for value in spec.std) or any(
        not math.isfinite(value) for value in (*spec.mean, *spec.std)
    ):
        return f"mean {list(spec.mean)} and std {list(spec.std)} must be finite, and std above 0"
    if spec.colours != "RGB" and channels != 3:
        return f"colours {spec.colours} need 3 channels, but the input shape has {channels}"
    return None


def _problem_of_sizes(spec: InputSpec) -> str | None:
    """Say what is wrong with the sizes to resize and to crop to; None if nothing is."""
    resize, crop = spec.resize, spec.crop
    if not resize and crop is None:
        return None
    size = list(spec.shape[1:])
    if spec.dtype != "uint8":
        return f"{spec.dtype} samples are not resized or cropped; remove --resize and --crop"
    if len(resize) > 2 or min((*resize, *(crop or ())), default=1) < 1:
        return f"resize {list(resize)} and crop {crop}: expected one or two positive sizes"
    if crop is not None and list(crop) != size:
        return f"crop {list(crop)} is not the size of the input, {size}: correct --input-shape"
    if crop is not None and _smaller(resize, crop):
        return f"resize {list(resize)} is smaller than crop {list(crop)}"
    if crop is None and list(_both(resize)) != size:
        return (
            f"resize {list(resize)} does not give the size of the input, {size}: add --crop "
            f"{','.join(map(str, size))}, or correct --input-shape"
        )
    return None


def _smaller(resize: Sequence[int], crop: Sequence[int]) -> bool:
    if len(resize) == 2:
        return resize[0] < crop[0] or resize[1] < crop[1]
    return bool(resize) and resize[0] < min(crop)
