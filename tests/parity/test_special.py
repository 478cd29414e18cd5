"""Samples that no test set contains: of the shape and dtype of the data, always the same."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.parity.special import special_images

LABELS = np.arange(40) % 4


@pytest.mark.parametrize("shape", [(5,), (2, 7), (1, 6, 8), (2, 3, 4, 5)])
def test_samples_of_floats_have_special_ones_of_their_range(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    samples = (3 + 0.1 * random.standard_normal((40, *shape))).astype(np.float32)
    found = special_images(samples, LABELS)
    assert found.dtype == np.float32
    assert found.shape[1:] == shape
    assert np.array_equal(found, special_images(samples, LABELS))
    assert not found[0].any()
    assert np.abs(found[1:] - 3).max() < 1
    assert len(special_images(samples, np.zeros(40, np.int64))) < len(found)


@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 5, 5), (4, 9)])
def test_special_images_are_bytes(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    found = special_images(samples, LABELS)
    assert found.dtype == np.uint8
    assert found.shape[1:] == shape
