"""The input of an artifact: raw images → what its graph takes.

In: uint8 `[N,C,H,W]`, resized and cropped, with channels in the order that the model expects. Out:
float32, normalised; or, for an artifact with its preprocessing in the graph, uint8 in RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.data.preprocessing import normalise
from toolkit.schema import Inputs, InputSpec


def inputs_of(images: NDArray[Any], spec: InputSpec, *, embedded: bool) -> Inputs:
    """Return the input for raw images; `embedded` says that the graph has the preprocessing. The
    result is a copy in memory of its own, because some runtimes take only writable memory."""
    if not embedded:
        return normalise(images, spec)
    in_rgb = images[:, ::-1] if spec.colours == "BGR" else images
    return np.array(in_rgb, np.uint8, order="C")
