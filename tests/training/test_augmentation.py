"""Augmentation: small transformations, different for each image, that keep its content."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toolkit.data import load_dataset
from toolkit.training.augmentation import move_a_little


def moved(images: Tensor, *, black: float = 0.0, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return move_a_little(images, torch.full((1, images.shape[1], 1, 1), black))


def test_each_image_is_transformed_independently_with_equal_channels() -> None:
    digits = torch.from_numpy(load_dataset("test").images[:1] / 255).float()
    found = moved(digits.expand(50, 3, 28, 28))
    assert found.shape == (50, 3, 28, 28)
    assert len({tuple(image[0].flatten().tolist()) for image in found}) == 50
    assert torch.equal(found[:, 0], found[:, 2])


def test_empty_areas_are_black_and_ink_is_preserved() -> None:
    digits = torch.from_numpy(load_dataset("test").images[:200] / 255).float()
    black = -0.42
    normalised = digits / 0.3 + black
    found = moved(normalised, black=black)
    assert found.min() >= black - 1e-5
    assert found.max() <= normalised.max() + 1e-5
    ink = (found - black).mean() / (normalised - black).mean()
    assert ink == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [(28, 28), (24, 48)])
def test_transformations_are_small_for_any_image_shape(size: tuple[int, int]) -> None:
    """A dot stays within the reach of 10 degrees, a tenth of shift and a tenth of zoom."""
    height, width = size
    dots = torch.zeros(500, 1, height, width)
    row, column = height // 4, width // 4
    dots[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    found = moved(dots)[:, 0]
    kept = found.sum((1, 2)) > 1
    assert kept.float().mean() > 0.95
    found = found[kept]
    mass = found.sum((1, 2))
    rows = (found.sum(2) * torch.arange(height)).sum(1) / mass
    columns = (found.sum(1) * torch.arange(width)).sum(1) / mass
    reach = 0.1 * max(size) + 0.3 * torch.tensor([height / 4, width / 4]).norm()
    assert (rows - row).abs().max() < reach + 1
    assert (columns - column).abs().max() < reach + 1
    assert (rows - row).std() > 0.5
    assert (columns - column).std() > 0.5
