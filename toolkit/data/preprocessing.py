"""Preprocessing: raw images → model input, by the model's input spec.

This is the only place where pixels are scaled. In: uint8 `[N,C,H,W]`. Out: float32 `[N,C,H,W]`. The
arithmetic is plain float32, one operation at a time, so every worker of a machine computes the same
bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import InputSpec


def normalise(images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Return `(images / 255 - mean) / std` per channel; uint8 `[N,C,H,W]` → contiguous float32."""
    mean = np.asarray(spec.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(spec.std, np.float32).reshape(1, -1, 1, 1)
    output = images.astype(np.float32, order="C")
    output /= np.float32(255)
    output -= mean
    output /= std
    return output
