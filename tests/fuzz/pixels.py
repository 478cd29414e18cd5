"""Targets that are data sets: IDX files, arrays, tables, CIFAR, and image files of every kind that
is read."""

from __future__ import annotations

import gzip
import io
import pickle

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


class ArchiveTarget(Target):
    """Arrays in an archive of numpy."""

    save = staticmethod(np.savez)
    file = "a.npz"

    def prepare(self) -> bytes:
        buffer = io.BytesIO()
        pixels = np.arange(6 * 3 * 8 * 8).reshape(6, 3, 8, 8).astype(np.uint8)
        type(self).save(buffer, x_test=pixels, y_test=np.arange(6))
        return buffer.getvalue()

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        path = self.folder / self.file
        path.write_bytes(content)
        np.asarray(load_dataset("test", path).images[:])


class PackedArchiveTarget(ArchiveTarget):
    """The same, compressed."""

    save = staticmethod(np.savez_compressed)


class NpyTarget(Target):
    """An array in a file of its own: floats, last channels."""

    def prepare(self) -> bytes:
        np.save(self.folder / "y_test.npy", np.arange(6))
        buffer = io.BytesIO()
        pixels = np.linspace(0, 1, 6 * 8 * 8 * 3, dtype=np.float32).reshape(6, 8, 8, 3)
        np.save(buffer, pixels)
        return buffer.getvalue()

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        (self.folder / "x_test.npy").write_bytes(content)
        np.asarray(load_dataset("test", self.folder).images[:])


class TableTarget(Target):
    """A table of paths and labels."""

    def prepare(self) -> bytes:
        from PIL import Image

        (self.folder / "a").mkdir()
        for number in range(4):
            Image.new("L", (8, 8), number).save(self.folder / "a" / f"{number}.png")
        return b"path,label,split\n" + b"".join(b"a/%d.png,%d,test\n" % (n, n) for n in range(4))

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        (self.folder / "labels.csv").write_bytes(content)
        np.asarray(load_dataset("test", self.folder / "labels.csv").images[:])


class CifarTarget(Target):
    """A batch of CIFAR-10 for Python: a pickle that is read as data."""

    def prepare(self) -> bytes:
        pixels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
        return pickle.dumps({"labels": [0, 1], "data": pixels}, 2)

    def read(self, content: bytes) -> None:
        from toolkit.data import load_dataset

        folder = self.folder / "cifar-10-batches-py"
        folder.mkdir(exist_ok=True)
        (folder / "test_batch").write_bytes(content)
        np.asarray(load_dataset("test", folder).images[:])
