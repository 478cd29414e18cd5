"""Search for a checkpoint's tensors in the bytes of an artifact of any format.

In: arrays and files. Out: the arrays as the files store them. Formats store float32 weights
unchanged, or with their axes in another order. Nothing is unpickled and no runtime is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.files import read_regular, size_of

Array = NDArray[np.float32]

_WINDOW = 16  # values to search for if a tensor is not stored as a whole
_WINDOWS = 40
_ORDERS = {
    4: ((0, 1, 2, 3), (0, 2, 3, 1), (2, 3, 1, 0), (1, 0, 2, 3), (1, 2, 3, 0)),
    2: ((0, 1), (1, 0)),
}
_LARGEST_FILE = 1 << 30


def find_tensors(tensors: Mapping[str, Array], paths: Sequence[Path]) -> dict[str, Array]:
    """For each tensor, return what the files hold in its place; tensors that are not found are left
    out."""
    contents = [read_regular(path) for path in paths if size_of(path) <= _LARGEST_FILE]
    found = {}
    for name, tensor in tensors.items():
        for content in contents:
            stored = _find(np.ascontiguousarray(tensor, np.float32), content)
            if stored is not None:
                found[name] = stored
                break
    return found


def _find(tensor: Array, content: bytes) -> Array | None:
    orders = _ORDERS.get(tensor.ndim, (tuple(range(tensor.ndim)),))
    for order in orders:
        laid = np.ascontiguousarray(tensor.transpose(order))
        if content.find(laid.tobytes()) >= 0:
            return tensor
    for order in orders:
        laid = np.ascontiguousarray(tensor.transpose(order))
        at = _place(laid, content)
        if at is not None:
            stored = np.frombuffer(content, np.float32, laid.size, at).reshape(laid.shape)
            return np.ascontiguousarray(stored.transpose(np.argsort(order)))
    return None


def _place(laid: Array, content: bytes) -> int | None:
    """Return where the tensor begins, found by windows of it; most of them must agree."""
    flat = laid.ravel()
    if flat.size < 2 * _WINDOW:
        return None
    places = [
        place - 4 * start
        for start in _starts(flat.size)
        if (place := content.find(flat[start : start + _WINDOW].tobytes())) >= 0
    ]
    inside = [at for at in places if 0 <= at <= len(content) - 4 * flat.size]
    if not inside:
        return None
    values, counts = np.unique(inside, return_counts=True)
    return int(values[counts.argmax()]) if counts.max() >= 2 else None


def _starts(size: int) -> Iterator[int]:
    last = size - _WINDOW
    yield from sorted({int(at) for at in np.linspace(0, last, _WINDOWS)})
