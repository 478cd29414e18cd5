"""Preprocessing: raw samples → model input, by the model's input spec.

This is the only place where pixels are scaled. In: uint8 or float32 `[N,...]`, after resizing,
cropping and reordering of the colours (`toolkit.data.geometry`). Out: float32 of the same shape.
The arithmetic is plain float32, one operation at a time, so every worker of a machine computes the
same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import InputSpec


def normalise(samples: NDArray[Any], spec: InputSpec) -> NDArray[np.float32]:
    """Return `(x - mean) / std` per channel, the first dimension of a sample; contiguous float32.

    Samples of dtype uint8 are images, and are divided by 255 first.
    """
    shape = (1, -1, *[1] * (samples.ndim - 2))
    mean = np.asarray(spec.mean, np.float32).reshape(shape)
    std = np.asarray(spec.std, np.float32).reshape(shape)
    output = samples.astype(np.float32, order="C")
    if spec.dtype == "uint8":
        output /= np.float32(255)
    output -= mean
    output /= std
    return output
