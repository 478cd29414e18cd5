"""Samples that no test set contains but a device may meet: blank, saturated, one pixel, noise,
blends; pure and seeded.

In: the samples of a data set. Out: raw samples, and the checksum of their bytes.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.data.images import Images

_SEED = 20
_SINGLE_PIXELS = 8
_NOISE = 16
_BETWEEN = 32
_MOST = 256  # samples whose mean and spread are measured
_LEVELS = (0, 1, 64, 128, 254, 255)


def special_images(images: Images, labels: NDArray[np.int64]) -> NDArray[Any]:
    """Return raw samples `[P,...]`, always the same for the same data set `[N,...]`, and of its
    dtype."""
    random = np.random.default_rng(_SEED)
    if images[:1].dtype != np.uint8:
        return _special_floats(images, labels, random)
    shape = images.shape[1:]
    levels = [np.full(shape, level, np.uint8) for level in _LEVELS]
    single = []
    for _ in range(_SINGLE_PIXELS):
        image = np.zeros(shape, np.uint8)
        place: tuple[slice | int, ...] = (slice(None),)
        place += tuple(int(random.integers(size)) for size in shape[1:])
        image[place] = 255
        single.append(image)
    noise = random.integers(0, 256, (_NOISE, *shape), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, shape[-1]).astype(np.uint8), shape)
    parts = [np.stack([*levels, *single, ramp]), noise, _between(images, labels, random)]
    return np.concatenate(parts)


def _special_floats(
    images: Images, labels: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float32]:
    """Return samples of floats: zero, the mean, noise of the spread of the data, and means."""
    shape = images.shape[1:]
    some = images[np.linspace(0, len(labels) - 1, min(_MOST, len(labels))).astype(np.intp)]
    mean, spread = some.mean(0, dtype=np.float64), some.std(0, dtype=np.float64)
    noise = mean + spread * random.standard_normal((_NOISE, *shape))
    whole = np.stack([np.zeros(shape), mean]).astype(np.float32)
    return np.concatenate([whole, noise.astype(np.float32), _between(images, labels, random)])


def _between(
    images: Images, labels: NDArray[np.int64], random: np.random.Generator
) -> NDArray[Any]:
    """Return means of two samples of different classes, if there are any."""
    first = random.integers(0, len(labels), _BETWEEN)
    second = random.integers(0, len(labels), _BETWEEN)
    kept = labels[first] != labels[second]
    one, other = (images[rows[kept]] for rows in (first, second))
    if one.dtype != np.uint8:
        means: NDArray[Any] = (one + other) / np.float32(2)
    else:
        means = ((one.astype(np.uint16) + other) // 2).astype(np.uint8)
    return means


def equal_positions(images: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for each sample of `[P,C,...]`, at how many positions its most common value (all
    channels together) occurs; at least 1."""
    columns = images.reshape(*images.shape[:2], math.prod(images.shape[2:]))
    counts = (np.unique(each, axis=1, return_counts=True)[1] for each in columns)
    return np.array([found.max(initial=1) for found in counts], np.int64)


def checksum(images: NDArray[Any]) -> str:
    """Return the SHA-256 in hex of the bytes of the images."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
