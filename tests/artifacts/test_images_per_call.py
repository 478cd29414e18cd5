"""Large calibration images are computed a few at a time, to save memory."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.artifacts.rounding.number_formats import images_per_call


@pytest.mark.parametrize(
    ("shape", "count"),
    [((1, 28, 28), 50), ((3, 32, 32), 50), ((3, 224, 224), 3), ((3, 2000, 2000), 1), ((7,), 50)],
)
def test_large_images_are_computed_a_few_at_a_time(shape: tuple[int, ...], count: int) -> None:
    assert images_per_call(np.zeros((2, *shape), np.float32)) == count
    assert images_per_call(np.zeros((0, *shape), np.float32)) >= 1
