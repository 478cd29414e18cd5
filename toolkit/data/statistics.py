"""Statistics of a data set's pixels; pure functions.

In: images. Out: mean and standard deviation per channel, for the model's input spec.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from toolkit.data.images import Images

_MOST_IMAGES = 100_000  # for larger sets, this many evenly spaced images are enough
_CHUNK_BYTES = 4_000_000


def mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of the pixels scaled to 0..1, to four digits.

    MNIST's are 0.1307 and 0.3081. A constant channel gets a deviation of 1.
    """
    stride = math.ceil(len(images) / _MOST_IMAGES)
    channels, chunk = images.shape[1], max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), chunk * stride):
        part = images[start : start + chunk * stride : stride]
        for channel in range(channels):
            counts[channel] += _counts(part[:, channel])
    levels = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)
    means = shares @ levels
    deviations = np.sqrt(np.maximum(0, shares @ levels**2 - means**2))
    return (
        tuple(round(float(mean), 4) for mean in means),
        tuple(round(float(deviation), 4) or 1.0 for deviation in deviations),
    )


def _counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each of the 256 values occurs. Values are counted in pairs, because
    `bincount` converts each number to eight bytes."""
    flat = np.ascontiguousarray(values).reshape(-1)
    even = len(flat) // 2 * 2
    pairs = np.bincount(flat[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: NDArray[np.int64] = pairs.sum(0) + pairs.sum(1)
    counts[flat[even:]] += 1
    return counts
