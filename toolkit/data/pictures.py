"""Pictures: files of PNG, JPEG and other formats → what their headers say, and their pixels.

In: a path. Out: a header, or uint8 `[C,H,W]`. EXIF orientation is not applied, as in torchvision's
ImageFolder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DatasetError, headline
from toolkit.files import open_regular

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# Endings of pictures that are not read; that they are skipped is said.
OTHER_SUFFIXES = frozenset(
    {".avif", ".cr2", ".dcm", ".dng", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd"}
    | {".raw", ".svg", ".tga"}
)
# Without this list, a PostScript file under any name would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_ORIENTATION = 0x0112
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_END_BYTES = 4096  # programs append their own data


@dataclass(frozen=True, kw_only=True)
class Header:
    """What one file says about itself. `size` is its height and width, `deep` whether it has 16
    bits per value, `turned` whether its EXIF orientation asks for a rotation."""

    path: str
    mode: str
    size: tuple[int, int]
    deep: bool
    alpha: bool
    turned: bool


def read_header(path: Path) -> Header:
    """Read the header of one picture; of a file that seems to be cut off, also the pixels.

    Raises:
        DatasetError: Not a picture, damaged, or of values whose range is not known.
    """
    with _opened(path) as image:
        _refuse_unknown_range(path, image)
        ends = _ENDS.get(image.format or "")
        header = Header(
            path=str(path),
            mode=image.mode,
            size=(image.height, image.width),
            deep=_is_deep(image),
            alpha=image.mode in _ALPHA or "transparency" in image.info,
            turned=_is_turned(image),
        )
        if ends is not None and image.fp is not None and ends not in _tail(image.fp):
            image.load()
        return header


def largest_value(path: Path) -> int:
    """Return the largest value in a picture, as it is stored."""
    with _opened(path) as image:
        return int(np.asarray(image).max())


def decode(path: Path, channels: int) -> NDArray[np.uint8]:
    """Decode one picture to uint8 `[C,H,W]`.

    Raises:
        DatasetError: Not a picture, damaged, or of values whose range is not known.
    """
    with _opened(path) as image:
        _refuse_unknown_range(path, image)
        image.load()
        image.info.pop("transparency", None)  # Pillow warns about some kinds, and drops them
        pixels = np.asarray(_eight_bits(image).convert(MODES[channels]))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """Open a picture; errors of its reading become DatasetError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path}: not an image file; remove it from the folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{path}: cannot be read as an image: {reason}") from error
    except Exception as error:  # Pillow raises various exceptions for damaged bytes
        reason = headline(error)
        raise DatasetError(f"{path}: cannot be read as an image: {reason}") from error


def _refuse_unknown_range(path: Path, image: Image.Image) -> None:
    """Raise DatasetError for floats and 32-bit numbers: nothing says which value is white."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats (mode F)" if image.mode == "F" else "32-bit numbers (mode I)"
        raise DatasetError(
            f"{path}: its pixels are {kind}, and no value is known to be white; expected 8 or 16 "
            "bits per value: convert the pictures, or give the values as .npz to a checkpoint "
            "imported with float32 inputs"
        )


def _is_deep(image: ImageFile) -> bool:
    """Return whether a picture has 16 bits per value. Of colours, Pillow keeps the upper 8."""
    if image.mode.startswith("I"):
        return True
    return any(";16" in str(tile[3]) for tile in image.tile)


def _is_turned(image: Image.Image) -> bool:
    """Return whether the EXIF data asks for a rotation that nobody applies; Pillow turns TIFFs."""
    if "exif" not in image.info or image.format == "TIFF":
        return False
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # noqa: BLE001 - damaged EXIF data; the pixels may be fine
        return False


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey picture of 16 bits with 8 bits: 65535 becomes 255; others unchanged."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))


def _tail(file: IO[bytes]) -> bytes:
    """Return the last bytes of an open file, and leave its position as it is."""
    place = file.tell()
    file.seek(max(0, os.fstat(file.fileno()).st_size - _END_BYTES))
    tail = file.read(_END_BYTES)
    file.seek(place)
    return tail
