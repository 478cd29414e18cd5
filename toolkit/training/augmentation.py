"""Augmentation: small random transformations of all images of a batch, on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor

_DEGREES = 10.0
_SHIFT = 0.1  # of the width and height
_SCALE = 0.1


def move_a_little(images: Tensor, black: Tensor) -> Tensor:
    """Rotate by up to 10 degrees, shift by up to a tenth, scale by up to a tenth.

    Args:
        images: Float `[N,C,H,W]`, normalised.
        black: `[1,C,1,1]`, the value of a black pixel after normalising; it fills empty areas.

    Returns:
        Images like `images`, each transformed with its own random numbers from the device's
        generator.
    """
    count, device = len(images), images.device
    draws = torch.rand(4, count, device=device, dtype=images.dtype) * 2 - 1
    angle = draws[0] * math.radians(_DEGREES)
    zoom = 1 + draws[1] * _SCALE
    height, width = images.shape[2:]
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift_x, shift_y = 2 * _SHIFT * draws[2], 2 * _SHIFT * draws[3]
    # Coordinates run from -1 to 1 along both sides, so a rotation must know the length of the
    # sides.
    row_x = torch.stack([cos, -sin * height / width, shift_x], 1)
    row_y = torch.stack([sin * width / height, cos, shift_y], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images - black, grid, align_corners=False) + black
