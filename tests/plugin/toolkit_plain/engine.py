"""The engine of the runtime. It reads its environment when it is imported."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

if os.environ.get("PLAIN_ENGINE") != "quiet":
    raise RuntimeError("PLAIN_ENGINE must be set before this module is imported")

Array = NDArray[np.float32]


def convolve(images: Array, weight: Array, bias: Array) -> Array:
    """`[N,C,H,W]` and `[K,C,h,w]` → `[N,K,H',W']`, then ReLU."""
    windows = np.lib.stride_tricks.sliding_window_view(images, weight.shape[2:], axis=(2, 3))
    sums = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
    return np.maximum(sums.transpose(0, 3, 1, 2) + bias[:, None, None], np.float32(0))


def max_pool(images: Array) -> Array:
    """The largest value of each square of two by two."""
    count, channels, height, width = images.shape
    squares = images.reshape(count, channels, height // 2, 2, width // 2, 2)
    largest: Array = squares.max(axis=(3, 5))
    return largest
