"""A sample of a data set, for a quick look.

In: a data set. Out: a smaller one with images drawn at random, and their places in the whole one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset

QUICK_IMAGES = 500
"""Enough to decide fp32, whose logits are compared image by image. Other precisions need thousands,
so they stay undecided, or fail."""
_SEED = 5


def draw_sample(dataset: Dataset, count: int = QUICK_IMAGES) -> tuple[Dataset, NDArray[np.intp]]:
    """Return `count` images of the data set, always the same ones, in order, and their places in
    it. The record says that they are a part."""
    total = len(dataset)
    if count >= total:
        return dataset, np.arange(total)
    places = np.sort(np.random.default_rng(_SEED).choice(total, count, replace=False))
    record = replace(dataset.record, images=count, drawn_from=total)
    sample = replace(
        dataset, images=dataset.images[places], labels=dataset.labels[places], record=record
    )
    return sample, places
