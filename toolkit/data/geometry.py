"""Geometry of images: resize, crop and order of colours, by the model's input spec.

In: raw uint8 `[C,H,W]` of any size. Out: uint8 of the model's shape. With antialiasing, the pixels
are those of torchvision's transforms on PIL images; without, those of its transforms on tensors.
Scaling to floats follows in `toolkit.data.preprocessing`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import InputSpec

Pixels = NDArray[np.uint8]


def changes_pixels(spec: InputSpec) -> bool:
    """Return whether the spec asks for more than the image as it is."""
    return bool(spec.resize or spec.crop or spec.colours == "BGR")


def size_after(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    """Return height and width of an image after resizing and cropping."""
    return spec.crop or _resized(height, width, spec.resize)


def prepared(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Resize, crop and reorder the colours of one image `[C,H,W]`."""
    size = _resized(pixels.shape[1], pixels.shape[2], spec.resize)
    if size != pixels.shape[1:]:
        scale = _averaged if spec.antialias else _sampled
        pixels = scale(pixels, size, spec.interpolation)
    if spec.crop is not None:
        pixels = _cropped(pixels, spec.crop)
    return pixels[::-1] if spec.colours == "BGR" else pixels


def _resized(height: int, width: int, resize: tuple[int, ...]) -> tuple[int, int]:
    """Return the size after resizing, rounded as `torchvision.transforms.Resize` does."""
    if len(resize) == 2:
        return resize[0], resize[1]
    if not resize:
        return height, width
    short = resize[0]
    long = int(short * max(height, width) / min(height, width))
    return (long, short) if width <= height else (short, long)


def _averaged(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """Resize as Pillow does: a smaller image averages over all pixels that it combines."""
    from PIL import Image

    method = Image.Resampling[interpolation.upper()]
    to = (size[1], size[0])
    if len(pixels) in (3, 4):
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        return np.asarray(image.resize(to, method)).transpose(2, 0, 1)
    planes = [Image.fromarray(np.ascontiguousarray(each)) for each in pixels]
    return np.stack([np.asarray(each.resize(to, method)) for each in planes])


def _sampled(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """Resize as `torchvision.transforms.functional.resize` does tensors without antialiasing."""
    import torch
    from torch.nn.functional import interpolate

    floats = torch.from_numpy(np.array(pixels, np.float32))[None]
    corners = None if interpolation == "nearest" else False
    found = interpolate(floats, size=size, mode=interpolation, align_corners=corners)
    if interpolation == "bicubic":
        found = found.clamp(0, 255)
    rounded: Pixels = found[0].round().to(torch.uint8).numpy()
    return rounded


def _cropped(pixels: Pixels, crop: tuple[int, int]) -> Pixels:
    """Cut the centre, as `torchvision.transforms.CenterCrop`; smaller images get black borders."""
    borders = [(0, 0)]
    for have, want in zip(pixels.shape[1:], crop, strict=True):
        missing = max(0, want - have)
        borders.append((missing // 2, (missing + 1) // 2))
    if any(map(any, borders)):
        pixels = np.pad(pixels, borders)
    top, left = (
        round((have - want) / 2) for have, want in zip(pixels.shape[1:], crop, strict=True)
    )
    return pixels[:, top : top + crop[0], left : left + crop[1]]
