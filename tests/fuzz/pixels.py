"""Targets that are data sets: IDX files, and image files of every kind that is read."""

from __future__ import annotations

import gzip

import numpy as np

from .model import write_data
from .targets import Target


class IdxTarget(Target):
    """A plain IDX file."""

    name = "t10k-images-idx3-ubyte"

    def prepare(self) -> bytes:
        write_data(self.folder, 20)
        path = self.folder / "t10k-images-idx3-ubyte"
        content = path.read_bytes()
        path.unlink()
        return content

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        (self.folder / self.name).write_bytes(content)
        np.asarray(load_dataset("test", self.folder).images[:])


class PackedIdxTarget(IdxTarget):
    """A compressed IDX file."""

    name = "t10k-images-idx3-ubyte.gz"

    def prepare(self) -> bytes:
        return gzip.compress(super().prepare(), mtime=0)


class IdxInGzipTarget(IdxTarget):
    """A damaged IDX file, compressed without damage."""

    name = "t10k-images-idx3-ubyte.gz"

    def read(self, content: bytes) -> None:
        super().read(gzip.compress(content, compresslevel=1, mtime=0))


class ImageTarget(Target):
    """An image in a folder of images."""

    kind = "png"

    def prepare(self) -> bytes:
        from PIL import Image

        pixels = np.arange(24 * 24, dtype=np.uint8).reshape(24, 24)
        for split in ("train", "test"):
            path = self.folder / split / "a" / f"0.{self.kind}"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
        return path.read_bytes()

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        (self.folder / "test" / "a" / f"0.{self.kind}").write_bytes(content)
        np.asarray(load_dataset("test", self.folder).images[:])


class JpegTarget(ImageTarget):
    """A JPEG file."""

    kind = "jpg"


class TiffTarget(ImageTarget):
    """A TIFF file."""

    kind = "tif"


class GifTarget(ImageTarget):
    """A GIF file."""

    kind = "gif"


class WebpTarget(ImageTarget):
    """A WebP file."""

    kind = "webp"


class BmpTarget(ImageTarget):
    """A BMP file."""

    kind = "bmp"
