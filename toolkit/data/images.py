"""Images that may stay on disk: an array, a mapped file, or a folder of image files.

In: an index. Out: raw images, uint8 `[N,C,H,W]`. All of these can be sent to another process, which
then opens the files itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DatasetError, headline
from toolkit.files import open_regular

# Without this list, a PostScript file under any name would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


class Images(Protocol):
    """The interface that a data set needs from its images; numpy arrays have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return `(N, C, H, W)`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return uint8 `[n,C,H,W]` for a slice or rows, and `[C,H,W]` for one row."""
        ...


@dataclass(frozen=True)
class MappedImages:
    """Images in an uncompressed file, from byte `offset` on; read on access."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        return np.asarray(self._pixels[index])

    def head(self, count: int) -> MappedImages:
        """Return the first `count` images without reading them."""
        return MappedImages(self.path, self.offset, (count, *self.shape[1:]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "offset": self.offset, "shape": self.shape}

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        with open_regular(self.path) as file:
            return np.memmap(file, np.uint8, mode="r", offset=self.offset, shape=self.shape)


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded on access; grey or RGB, all of one size."""

    paths: NDArray[np.bytes_]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        chosen = self.paths[index]
        if isinstance(chosen, bytes):
            return self._decoded(Path(os.fsdecode(chosen)))
        return np.stack([self._decoded(Path(os.fsdecode(path))) for path in chosen])

    def head(self, count: int) -> ImageFiles:
        """Return the first `count` images without decoding them."""
        return ImageFiles(self.paths[:count], (count, *self.shape[1:]))

    def _decoded(self, path: Path) -> NDArray[np.uint8]:
        pixels = decode(path, channels=self.shape[1])
        if pixels.shape != self.shape[1:]:
            raise DatasetError(
                f"{path}: is {pixels.shape[2]}x{pixels.shape[1]} pixels, but the first image of "
                f"the data set is {self.shape[3]}x{self.shape[2]}; resize all images to one size"
            )
        return pixels


def decode(path: Path, *, channels: int | None = None) -> NDArray[np.uint8]:
    """Decode one image file to uint8 `[C,H,W]`. Grey images have one channel and others three,
    unless `channels` is given.

    Raises:
        DatasetError: Not an image, or truncated.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            grey = channels == 1 or (channels is None and image.mode in ("1", "L"))
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path}: not an image file; remove it from the folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{path}: cannot be read as an image: {reason}") from error
    except Exception as error:  # Pillow raises various exceptions for damaged bytes
        reason = headline(error)
        raise DatasetError(f"{path}: cannot be read as an image: {reason}") from error
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))
