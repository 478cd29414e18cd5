"""Samples that no test set contains: of the shape and dtype of the data, always the same."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.parity.special import equal_positions, special_images

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


def test_equal_positions_have_the_same_value_in_all_channels() -> None:
    blank = np.zeros((3, 4, 5), np.uint8)
    one_pixel = blank.copy()
    one_pixel[1, 2, 2] = 255
    different = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    found = equal_positions(np.stack([blank, one_pixel, different]))
    assert found.tolist() == [20, 19, 1]
    assert equal_positions(np.zeros((2, 7), np.float32)).tolist() == [1, 1]
    assert equal_positions(np.zeros((0, 3, 4, 5), np.uint8)).tolist() == []
