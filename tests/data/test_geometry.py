"""Resize, crop and order of colours give the pixels of torchvision's transforms, bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_idx
from datasets import checkpoint_of, picture, pixels_of, put_pictures
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from toolkit.data import load_dataset
from toolkit.data.geometry import prepared, size_after
from toolkit.errors import DatasetError
from toolkit.schema import InputSpec

SIZES = [(31, 47), (47, 31), (20, 20), (9, 64), (224, 17)]
WAYS: list[tuple[tuple[int, ...], tuple[int, int] | None]] = [
    ((24,), (16, 16)),
    ((33,), None),
    ((16, 16), None),
    ((12, 40), (12, 30)),
    ((), (18, 18)),  # pads the small side
    ((), (40, 60)),
    ((20,), (21, 19)),
]


def spec_of(
    resize: tuple[int, ...], crop: tuple[int, int] | None, channels: int, **options: object
) -> InputSpec:
    shape = (channels, *(crop or (16, 16)))
    mean, std = (0.0,) * channels, (1.0,) * channels
    return InputSpec(shape=shape, mean=mean, std=std, resize=resize, crop=crop, **options)  # type: ignore[arg-type]


def torchvision_of(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Of PIL images with antialiasing, of tensors without."""
    mode = InterpolationMode(spec.interpolation)
    size = list(spec.resize) if len(spec.resize) == 2 else (spec.resize or (0,))[0]
    steps = [transforms.Resize(size, mode, antialias=spec.antialias)] if spec.resize else []
    steps += [transforms.CenterCrop(spec.crop)] if spec.crop else []
    transform = transforms.Compose(steps)
    if not spec.antialias:
        found: NDArray[np.uint8] = transform(torch.from_numpy(pixels)).numpy()
        return found
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    planes = np.asarray(transform(image))
    return planes[None] if len(pixels) == 1 else planes.transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_equal_those_of_torchvision(
    interpolation: str, antialias: bool, channels: int
) -> None:
    for number, size in enumerate(SIZES):
        pixels = pixels_of(number, channels, *size)
        for resize, crop in WAYS:
            spec = spec_of(resize, crop, channels, interpolation=interpolation, antialias=antialias)
            found = prepared(pixels, spec)
            assert found.dtype == np.uint8
            assert np.array_equal(found, torchvision_of(pixels, spec)), (size, resize, crop)
            assert found.shape[1:] == size_after(*size, spec)


def test_two_channels_are_resized_each_for_itself() -> None:
    pixels = pixels_of(0, 2, 30, 40)
    spec = spec_of((16, 16), None, 2)
    one = spec_of((16, 16), None, 1)
    found = prepared(pixels, spec)
    for channel in range(2):
        assert np.array_equal(found[channel], prepared(pixels[channel : channel + 1], one)[0])


def test_colours_are_reordered_after_the_rest() -> None:
    pixels = pixels_of(0, 3, 30, 40)
    rgb, bgr = (spec_of((24,), (16, 16), 3, colours=order) for order in ("RGB", "BGR"))
    assert np.array_equal(prepared(pixels, bgr), prepared(pixels, rgb)[::-1])


def test_pictures_of_several_sizes_are_read_if_the_model_resizes(tmp_path: Path) -> None:
    some = [picture(n, *size) for n, size in enumerate(SIZES)]
    put_pictures(tmp_path / "test", {"a": some})
    model = checkpoint_of((3, 16, 16), 1, resize=(20,), crop=(16, 16))
    found = load_dataset("test", tmp_path, checkpoint=model)
    assert found.images.shape == (5, 3, 16, 16)
    for image, each in zip(found.images[:], some, strict=True):
        pixels = np.asarray(each).transpose(2, 0, 1)
        assert np.array_equal(image, torchvision_of(pixels, model.input))
    sent = pickle.loads(pickle.dumps(found.images))  # noqa: S301 - our own
    assert np.array_equal(sent[:], found.images[:])
    assert np.array_equal(found.head(2).images[:], found.images[:2])


def test_pictures_that_resizing_leaves_unequal_are_refused(tmp_path: Path) -> None:
    put_pictures(tmp_path / "test", {"a": [picture(0, 20, 30), picture(1, 30, 20)]})
    model = checkpoint_of((3, 16, 24), 1, resize=(16,))
    with pytest.raises(DatasetError, match=r"0\.png is 20x30, \S+1\.png is 30x20.*--crop"):
        load_dataset("test", tmp_path, checkpoint=model)


def test_images_of_an_array_are_resized_as_well(tmp_path: Path) -> None:
    pixels = pixels_of(0, 4, 3, 30, 40)
    write_idx(tmp_path / "test-images-idx4-ubyte", pixels)
    write_idx(tmp_path / "test-labels-idx1-ubyte", np.arange(4, dtype=np.uint8))
    for colours in ("RGB", "BGR"):
        model = checkpoint_of((3, 16, 16), 4, resize=(20,), crop=(16, 16), colours=colours)
        found = load_dataset("test", tmp_path, checkpoint=model)
        expected = np.stack([prepared(each, model.input) for each in pixels])
        assert np.array_equal(found.images[:], expected)
        assert np.array_equal(found.images[2], expected[2])
        assert np.array_equal(found.images[np.array([3, 0])], expected[[3, 0]])
        assert np.array_equal(found.head(2).images[:], expected[:2])


def test_a_picture_of_another_size_is_refused_with_the_options_that_help(tmp_path: Path) -> None:
    put_pictures(tmp_path / "test", {"a": [picture(0, 20, 30)]})
    with pytest.raises(DatasetError, match=r"\[3, 20, 30\], but .* expects \[3, 8, 8\].*--resize"):
        load_dataset("test", tmp_path, checkpoint=checkpoint_of((3, 8, 8), 1))
