"""Data sets that tests write, and checkpoints that they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toolkit.schema import Checkpoint, InputSpec, ModelSpec


def checkpoint_of(
    shape: tuple[int, ...], classes: int, *, class_names: Sequence[str] = (), **options: Any
) -> Checkpoint:
    """The record of a checkpoint; `options` are those of its input."""
    spec = InputSpec(shape=shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0], **options)
    return Checkpoint(
        schema_version=1,
        name="net",
        model=ModelSpec(factory="a:b"),
        input=spec,
        classes=classes,
        class_names=tuple(class_names),
        sha256="",
    )


def pixels_of(seed: int, *shape: int) -> NDArray[np.uint8]:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put_pictures(folder: Path, pictures: Mapping[str, Sequence[Image.Image | bytes]]) -> Path:
    """Write pictures by the name of their folder, as `0.png`, `1.png`..., or as bytes."""
    for name, some in pictures.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(some):
            path = place / f"{number}.png"
            if isinstance(each, bytes):
                path.write_bytes(each)
            else:
                each.save(path)
    return folder


def picture(seed: int, height: int = 8, width: int = 8, *, channels: int = 3) -> Image.Image:
    """A random picture."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(pixels_of(seed, *shape))
