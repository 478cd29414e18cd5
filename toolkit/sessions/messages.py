"""Conversion of arrays to the plain values that a worker and its driver exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(logits: NDArray[np.floating]) -> dict[str, Any]:
    """Return logits as plain values for the channel."""
    return {"logits": logits.tobytes(), "shape": list(logits.shape), "dtype": logits.dtype.str}


def unpack(packed: dict[str, Any]) -> NDArray[np.floating]:
    """Return the logits that `pack` packed."""
    flat: NDArray[np.floating] = np.frombuffer(packed["logits"], np.dtype(packed["dtype"]))
    return flat.reshape(packed["shape"])


def pack_images(images: NDArray[np.uint8]) -> dict[str, object]:
    """Return raw images `[N,C,H,W]` as arguments of a request."""
    return {"images": images.tobytes(), "shape": list(images.shape)}


def pixels_of(images: bytes, shape: list[int]) -> NDArray[np.uint8]:
    """Return the images that `pack_images` packed."""
    return np.frombuffer(images, np.uint8).reshape(shape)
