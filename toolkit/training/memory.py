"""Out of memory: an error that names a batch size that fits."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from toolkit.errors import SettingError


@contextmanager
def explained(images: int, works: Callable[[int], object] | None) -> Iterator[None]:
    """Run the body, a step on `images` images. If memory runs out, look for a batch size that fits.

    `works` runs a step with the given number of images, or raises `torch.OutOfMemoryError`. It is
    None if this cannot be tried, because other processes would have to take part.

    Raises:
        SettingError: Out of memory; the message names half, a quarter ... of the batch size,
            whichever fits.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        shortage = error
    traceback.clear_frames(shortage.__traceback__)  # they hold the results of the failed step
    if works is None:
        advice = "try a smaller --batch-size"
    else:
        fitting = _fitting(images, works)
        advice = f"--batch-size {fitting} fits" if fitting else "not even a single image fits"
    raise SettingError(f"out of memory in a step with {images} images; {advice}") from shortage


def _fitting(images: int, works: Callable[[int], object]) -> int:
    """Return half of them, a quarter ...; 0 if a single one does not fit."""
    while images := images // 2:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            works(images)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            continue
        break
    return images
