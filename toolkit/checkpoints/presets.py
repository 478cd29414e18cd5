"""Preprocessing that somebody has written for training → what it says about the input.

In: the name of torchvision's weights, or a transform of torchvision. Out: a `Preprocessing`. A
transform must be one that can be written down: resize, crop, scale, normalise, in this order.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.checkpoints.input_spec import Preprocessing
from toolkit.errors import CheckpointError, ToolkitWarning, headline
from toolkit.processes.import_path import add_factory_folder, factories_importable

_TORCHVISION = "torchvision"
_KNOWN = "Resize, CenterCrop, Grayscale, ToTensor, ToImage, ToDtype, Normalize"


def read_preprocessing(given: object) -> Preprocessing:
    """Return what a preprocessing says about the input of a model.

    Args:
        given: `torchvision:` and the name of a model or of its weights, such as
            `torchvision:ResNet18_Weights.IMAGENET1K_V1`; or `package.module:name` of a transform,
            or of a function that returns one; or a transform. Naming a module allows its code to
            run.

    Raises:
        CheckpointError: It is not found, or cannot be written down.
    """
    if not isinstance(given, str):
        return _of_transform(given, type(given).__name__)
    module, _, name = given.partition(":")
    if not name:
        raise CheckpointError(
            f"--preprocess {given!r}: expected torchvision:MODEL, torchvision:WEIGHTS, or "
            "package.module:name of a transform"
        )
    return _of_weights(name) if module == _TORCHVISION else _of_named(given)


def _of_weights(name: str) -> Preprocessing:
    """Return the preset of torchvision's weights. Nothing is downloaded."""
    from torchvision.models import get_model_weights, get_weight

    try:
        weights = get_weight(name) if "." in name else get_model_weights(name).DEFAULT
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"--preprocess torchvision:{name}: {headline(error)}; expected the name of a model, "
            "such as mobilenet_v3_small, or of weights, such as "
            "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
        ) from error
    found = _of_transform(weights.transforms(), f"torchvision:{name}")
    return replace(found, class_names=tuple(weights.meta.get("categories", ())))


def _of_named(name: str) -> Preprocessing:
    from toolkit.checkpoints.model import find_attribute

    add_factory_folder(str(Path.cwd()))
    try:
        with factories_importable():
            transform = find_attribute(name)
            if isinstance(transform, functools.partial) or not _is_transform(transform):
                transform = _called(transform)
    except Exception as error:
        raise CheckpointError(
            f"--preprocess {name}: {headline(error)}; expected package.module:name of a "
            "torchvision transform, or of a function without arguments that returns one"
        ) from error
    return _of_transform(transform, name)


def _called(function: object) -> object:
    if not callable(function):
        raise TypeError(f"it is a {type(function).__name__}")
    return function()


def _is_transform(value: object) -> bool:
    from torchvision.transforms import Compose

    return isinstance(value, Compose | nn.Module) or type(value).__module__.startswith(_TORCHVISION)


def _of_transform(transform: object, name: str) -> Preprocessing:
    from torchvision.transforms._presets import ImageClassification

    if isinstance(transform, ImageClassification):
        return Preprocessing(
            mean=_floats(transform.mean),
            std=_floats(transform.std),
            resize=_sizes(transform.resize_size),
            crop=_sizes(transform.crop_size),
            interpolation=_interpolation(transform.interpolation, name),
            antialias=transform.antialias is not False,
            channels=len(transform.mean),
        )
    reading = _Reading(name)
    for step in _steps(transform):
        reading.take(step)
    return reading.found()


def _steps(transform: object) -> Iterator[object]:
    """Return the steps of a transform, in order, without the containers."""
    from torchvision.transforms import Compose, v2

    if isinstance(transform, Compose | v2.Compose):
        for each in transform.transforms:
            yield from _steps(each)
    elif isinstance(transform, nn.Sequential):
        for each in transform:
            yield from _steps(each)
    else:
        yield transform


class _Reading:
    """Reads the steps of a transform one by one; `name` is for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._says = Preprocessing()
        self._scaled = False  # to 0..1; until then, values are 0..255
        self._normalised = False

    def take(self, step: object) -> None:
        """Read one step.

        Raises:
            CheckpointError: It cannot be written down, or not at this place.
        """
        from torchvision import transforms
        from torchvision.transforms import v2

        readers: list[tuple[tuple[type, ...], Callable[[Any], None]]] = [
            ((transforms.Resize, v2.Resize), self._resize),
            ((transforms.CenterCrop, v2.CenterCrop), self._crop),
            ((transforms.Grayscale, v2.Grayscale), self._grey),
            ((transforms.Normalize, v2.Normalize), self._normalise),
            ((transforms.ToTensor, v2.ToTensor), self._scale),
            ((transforms.ConvertImageDtype, v2.ConvertImageDtype), self._convert),
            ((v2.ToDtype,), self._to_dtype),
            ((transforms.PILToTensor, v2.PILToTensor, v2.ToImage, v2.ToPureTensor), _nothing),
            ((v2.RGB, v2.Identity, nn.Identity), _nothing),
        ]
        for kinds, read in readers:
            if isinstance(step, kinds):
                read(step)
                return
        kind = type(step).__name__
        random = " is random, so it is for training" if "Random" in kind else ""
        raise self._error(
            f"{kind}{random or ' cannot be written down'}; give the transform of evaluation, of "
            f"{_KNOWN}"
        )

    def found(self) -> Preprocessing:
        """Return what all steps say.

        Raises:
            CheckpointError: They do not scale pixels.
        """
        if not self._scaled and not self._normalised:
            raise self._error("it has no step that scales pixels to 0..1 (ToTensor, ToDtype)")
        says = self._says
        if not self._normalised:
            channels = says.channels or 3
            says = replace(says, mean=(0.0,) * channels, std=(1.0,) * channels, channels=channels)
        return says

    def _resize(self, step: Any) -> None:
        if self._says.resize is not None or self._says.crop is not None:
            raise self._error("it resizes twice, or after the crop")
        if step.max_size is not None or step.size is None:
            raise self._error("Resize with max_size cannot be written down")
        if self._scaled:
            warnings.warn(
                f"--preprocess {self._name}: it resizes after scaling; the toolkit resizes first, "
                "and rounds to whole pixel values as for a picture, so pixels may differ by 1/510",
                ToolkitWarning,
                stacklevel=2,
            )
        self._says = replace(
            self._says,
            resize=_sizes(step.size),
            interpolation=_interpolation(step.interpolation, self._name),
            antialias=step.antialias is not False,
        )

    def _crop(self, step: Any) -> None:
        if self._says.crop is not None:
            raise self._error("it crops twice")
        self._says = replace(self._says, crop=_sizes(step.size))

    def _grey(self, step: Any) -> None:
        if step.num_output_channels != 1:
            raise self._error("Grayscale with 3 channels cannot be written down")
        self._says = replace(self._says, channels=1)

    def _scale(self, _: object) -> None:
        self._scaled = True

    def _convert(self, step: Any) -> None:
        self._require_float32(step.dtype, type(step).__name__)
        self._scaled = self._scaled or str(step.dtype) == "torch.float32"

    def _to_dtype(self, step: Any) -> None:
        self._require_float32(step.dtype, "ToDtype")
        floats = str(step.dtype) == "torch.float32"
        self._scaled = self._scaled or (floats and bool(step.scale))

    def _require_float32(self, dtype: object, kind: str) -> None:
        if str(dtype) not in ("torch.float32", "torch.uint8"):
            raise self._error(f"{kind} to {dtype} cannot be written down, expected float32")

    def _normalise(self, step: Any) -> None:
        if self._normalised:
            raise self._error("it normalises twice")
        unit = 1.0 if self._scaled else 255.0  # of the pixels that it gets
        self._says = replace(
            self._says,
            mean=tuple(value / unit for value in _floats(step.mean)),
            std=tuple(value / unit for value in _floats(step.std)),
            channels=len(step.mean) if len(step.mean) > 1 else self._says.channels,
        )
        self._normalised = True

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"--preprocess {self._name}: {what}")


def _nothing(_: object) -> None:
    """Read a step that changes no value."""


def _interpolation(mode: Any, name: str) -> Any:
    value = str(getattr(mode, "value", mode)).removesuffix("-exact")
    if value not in ("nearest", "bilinear", "bicubic"):
        raise CheckpointError(
            f"--preprocess {name}: interpolation {value!r} cannot be written down; expected "
            "nearest, bilinear or bicubic"
        )
    return value


def _sizes(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(int(each) for each in size)


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(each) for each in values)
