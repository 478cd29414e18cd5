"""Hypotheses about preprocessing: other ways to feed the same images; pure functions.

In: raw images and the model's input spec. Out: inputs `[n,C,H,W]` of a wrong preprocessing, each
with its description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.data.preprocessing import normalise
from toolkit.schema import InputSpec

Inputs = NDArray[np.float32]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SPEC = "Compare the preprocessing of the exported model and of its caller with the input spec"
_PLACE = "Check how images are read and laid out before they are passed to the model"


@dataclass(frozen=True, kw_only=True, eq=False)
class ChangedInputs:
    """One hypothesis: `what` is a clause about the images, `inputs` are `[n,C,H,W]`."""

    kind: str
    what: str
    action: str
    inputs: Inputs


def changed_inputs(images: NDArray[Any], spec: InputSpec) -> Iterator[ChangedInputs]:
    """Return all hypotheses for raw `images` `[n,C,H,W]`, likely ones first. Other samples have
    fewer."""
    healthy = normalise(images, spec)
    if not takes_images(spec):
        yield from _of_samples(images.astype(np.float32), healthy, spec)
        return
    pixels = images.astype(np.float32) / np.float32(255)
    for make in (_normalisations, _values):
        for kind, what, inputs in make(pixels, healthy, spec):
            yield _changed(kind, what, f"{_SPEC} (mean {_shown(spec.mean)}, std "
                           f"{_shown(spec.std)}, pixels from 0 to 1).", inputs)  # fmt: skip
    for kind, what, inputs in _places(healthy, spec, images):
        yield _changed(kind, what, f"{_PLACE}: the model takes [N,C,H,W].", inputs)


def takes_images(spec: InputSpec) -> bool:
    """Return whether the model takes images `[C,H,W]`."""
    return spec.dtype == "uint8" and len(spec.shape) == 3


def _of_samples(raw: Inputs, healthy: Inputs, spec: InputSpec) -> Iterator[ChangedInputs]:
    """Yield the hypotheses that hold for samples of any shape."""
    action = f"{_SPEC} (mean {_shown(spec.mean)}, std {_shown(spec.std)})."
    twice = normalise(healthy, replace(spec, dtype="float32"))
    yield _changed("not normalised", "they are not normalised", action, raw)
    yield _changed("normalised twice", "they are normalised twice", action, twice)


def _changed(kind: str, what: str, action: str, inputs: NDArray[np.floating]) -> ChangedInputs:
    kept = np.ascontiguousarray(inputs, np.float32)
    return ChangedInputs(kind=kind, what=what, action=action, inputs=kept)


def _normalisations(pixels: Inputs, healthy: Inputs, spec: InputSpec) -> Iterator[_Row]:
    mean, std = _column(spec.mean), _column(spec.std)
    yield "not normalised", "they are not normalised: pixels range from 0 to 1", pixels
    yield "normalised twice", "they are normalised twice", (healthy - mean) / std
    yield "0..255 for 0..1", "pixels from 0 to 255 are normalised", (pixels * 255 - mean) / std
    yield "not normalised", "they are not normalised: pixels range from 0 to 255", pixels * 255
    yield "1/256 for 1/255", "pixels are divided by 256 instead of 255", _by_256(pixels, mean, std)
    yield "inverted", "they are inverted: 1 - pixel", (1 - pixels - mean) / std
    yield "inverted", "they are inverted after normalisation", -healthy
    for words, other_mean, other_std in _other_specs(spec):
        what = f"they are normalised by {words}"
        yield "other normalisation", what, (pixels - _column(other_mean)) / _column(other_std)


def _by_256(pixels: Inputs, mean: Inputs, std: Inputs) -> Inputs:
    scaled: Inputs = (pixels * np.float32(255 / 256) - mean) / std
    return scaled


def _other_specs(
    spec: InputSpec,
) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    channels = len(spec.mean)
    halves, zeros, ones = (0.5,) * channels, (0.0,) * channels, (1.0,) * channels
    yield "mean 0.5 and std 0.5: pixels from -1 to 1", halves, halves
    for at in range(3) if channels == 1 else ():
        words = f"ImageNet's mean {_IMAGENET[0][at]} and std {_IMAGENET[1][at]}"
        yield words, _IMAGENET[0][at : at + 1], _IMAGENET[1][at : at + 1]
    if channels == 3:
        yield "ImageNet's mean and std", *_IMAGENET
        yield "mean and std with the channels in reversed order", spec.mean[::-1], spec.std[::-1]
    yield "the mean only", spec.mean, ones
    yield "the std only", zeros, spec.std
    yield "the variance instead of the std", spec.mean, tuple(each**2 for each in spec.std)
    yield "mean and std swapped", spec.std, spec.mean
    for digits in (3, 2, 1):
        mean = tuple(round(each, digits) for each in spec.mean)
        std = tuple(round(each, digits) for each in spec.std)
        if all(std) and (mean, std) != (spec.mean, spec.std):
            words = f"mean {_shown(mean)} and std {_shown(std)}: rounded to {digits} digits"
            yield words, mean, std


def _values(pixels: Inputs, healthy: Inputs, spec: InputSpec) -> Iterator[_Row]:
    mean, std = _column(spec.mean), _column(spec.std)
    yield "inputs cut off", "negative inputs are set to 0", np.maximum(healthy, 0)
    yield "inputs rounded", "inputs are rounded to float16", healthy.astype(np.float16)
    yield "inputs rounded", "inputs are rounded to bfloat16", _bfloat16(healthy)
    for bits in range(1, 8):
        steps = np.float32(2**bits - 1)
        for words, function in (("rounded", np.round), ("cut", np.floor)):
            kept = (function(pixels * steps) / steps - mean) / std
            yield "pixels rounded", f"pixels are {words} to {bits} bits", kept


def _bfloat16(values: Inputs) -> Inputs:
    bits = np.ascontiguousarray(values).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32)


def _places(healthy: Inputs, spec: InputSpec, images: NDArray[np.uint8]) -> Iterator[_Row]:
    _, channels, height, width = healthy.shape
    if height == width:
        yield "H and W swapped", "H and W are swapped", healthy.transpose(0, 1, 3, 2)
    yield "flipped", "they are mirrored, left for right", healthy[..., ::-1]
    yield "flipped", "they are upside down", healthy[:, :, ::-1]
    yield "turned", "they are turned by 180 degrees", healthy[:, :, ::-1, ::-1]
    if height == width:
        for times in (1, 3):
            what = f"they are turned by {90 if times == 1 else 270} degrees"
            yield "turned", what, np.rot90(healthy, times, (2, 3))
    for order in permutations(range(channels)) if 1 < channels <= 4 else ():
        if order != tuple(range(channels)):
            yield from _channels(order, healthy, spec, images)
    if channels > 1:
        laid = healthy.transpose(0, 2, 3, 1).reshape(healthy.shape)
        yield "layout of the input", "their bytes are laid out [N,H,W,C]", laid
        for laid in (np.repeat(healthy[:, at : at + 1], channels, 1) for at in range(channels)):
            yield "channels swapped", "all channels are equal", laid
    yield from _shifts(healthy)


def _channels(
    order: tuple[int, ...], healthy: Inputs, spec: InputSpec, images: NDArray[np.uint8]
) -> Iterator[_Row]:
    other = "RGB for BGR" if spec.colours == "BGR" else "BGR for RGB"
    name = other if order == (2, 1, 0) else f"in the order {', '.join(map(str, order))}"
    after = healthy[:, list(order)]
    yield "channels swapped", f"channels are swapped: {name}", after
    before = normalise(np.ascontiguousarray(images[:, list(order)]), spec)
    if not np.array_equal(before, after):
        yield "channels swapped", f"channels are swapped before normalisation: {name}", before


def _shifts(healthy: Inputs) -> Iterator[_Row]:
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down or right:
                rolled = np.roll(healthy, (down, right), (2, 3))
                what = f"they are shifted by {down:+d} rows and {right:+d} columns"
                yield "shifted by a pixel", what, rolled


_Row = tuple[str, str, NDArray[np.floating]]
Function = Callable[[Inputs], Inputs]


def affine(inputs: Inputs, factors: NDArray[np.float64], offsets: NDArray[np.float64]) -> Inputs:
    """Return `inputs * factor + offset`, with one factor and offset per channel."""
    changed = inputs * _column(tuple(factors)) + _column(tuple(offsets))
    return np.ascontiguousarray(changed, np.float32)


def spec_of(
    spec: InputSpec, factors: NDArray[np.float64], offsets: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and std that give the inputs of `affine`: `(p - m') / s' = (p - m) / s * f +
    o`."""
    std = np.asarray(spec.std) / factors
    mean = np.asarray(spec.mean) - offsets * std
    return tuple(map(float, mean)), tuple(map(float, std))


def _column(values: tuple[float, ...]) -> Inputs:
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
