"""Small pictures of the images on which candidates disagree, for reports.

In: parity reports and a data set. Out: PNG files as text, so that a results file has all that a
report shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toolkit.data import Dataset
from toolkit.schema import ParityReport, Picture

MOST_PICTURES = 50
_LARGEST_SIDE = 96
_CHANNELS = (1, 3)


def pictures_of(
    rows: Iterable[ParityReport], dataset: Dataset, places: NDArray[np.intp] | None = None
) -> tuple[Picture, ...]:
    """Return pictures of the worst images of the rows, those of rows that did not pass first. Data
    that are not images have none. `places` are the numbers that the images have in
    the reports; None means 0, 1, 2, ..."""
    shape = dataset.images.shape[1:]
    if len(shape) != 3 or shape[0] not in _CHANNELS or dataset.images[:1].dtype != np.uint8:
        return ()
    chosen = list(dict.fromkeys(_worst(sorted(rows, key=lambda row: row.status == "passed"))))
    rows_of = {} if places is None else {int(each): row for row, each in enumerate(places)}
    return tuple(
        Picture(index=index, png=_png(dataset.images[rows_of.get(index, index)]))
        for index in chosen[:MOST_PICTURES]
    )


def _worst(rows: Iterable[ParityReport]) -> Iterator[int]:
    for row in rows:
        yield from (each.index for each in row.worst)


def _png(pixels: NDArray[np.uint8]) -> str:
    """Return `[C,H,W]` as a PNG in base64, reduced to a small size."""
    flat = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(flat))
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
