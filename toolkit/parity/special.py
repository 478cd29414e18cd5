"""Images that no test set contains but a device may meet: blank, saturated, one pixel, noise,
blends; pure and seeded.

In: the images of a data set. Out: raw images, and the checksum of their bytes.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from toolkit.data.images import Images

_SEED = 20
_SINGLE_PIXELS = 8
_NOISE = 16
_BETWEEN = 32
_LEVELS = (0, 1, 64, 128, 254, 255)


def special_images(images: Images, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return raw images `[P,C,H,W]`, always the same for the same data set `[N,C,H,W]`."""
    random = np.random.default_rng(_SEED)
    shape = images.shape[1:]
    levels = [np.full(shape, level, np.uint8) for level in _LEVELS]
    single = []
    for _ in range(_SINGLE_PIXELS):
        image = np.zeros(shape, np.uint8)
        row, column = (int(random.integers(size)) for size in shape[1:])
        image[:, row, column] = 255
        single.append(image)
    noise = random.integers(0, 256, (_NOISE, *shape), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, shape[-1]).astype(np.uint8), shape)
    parts = [np.stack([*levels, *single, ramp]), noise, _between(images, labels, random)]
    return np.concatenate(parts)


def _between(
    images: Images, labels: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return means of two images of different classes, if there are any."""
    first = random.integers(0, len(labels), _BETWEEN)
    second = random.integers(0, len(labels), _BETWEEN)
    kept = labels[first] != labels[second]
    if not kept.any():
        return np.empty((0, *images.shape[1:]), np.uint8)
    pairs = [images[rows[kept]].astype(np.uint16) for rows in (first, second)]
    return ((pairs[0] + pairs[1]) // 2).astype(np.uint8)


def checksum(images: NDArray[np.uint8]) -> str:
    """Return the SHA-256 in hex of the bytes of the images."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
