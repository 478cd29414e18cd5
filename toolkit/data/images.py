"""Samples that may stay on disk: a mapped file, an array in another layout, pictures.

In: an index. Out: raw samples, `[N,C,H,W]` for images. All of these can be sent to another process,
which then opens the files itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.data.geometry import prepared
from toolkit.data.pictures import decode
from toolkit.errors import DatasetError
from toolkit.files import open_regular
from toolkit.schema import InputSpec

Scaling = Literal["none", "from 0..1", "from 16 bits"]


class Images(Protocol):
    """The interface that a data set needs from its images; numpy arrays have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return `(N, C, H, W)`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Return `[n,C,H,W]` for a slice or rows, and `[C,H,W]` for one row."""
        ...


class LazyImages(Images, Protocol):
    """Images that are read or computed on access."""

    def head(self, count: int) -> LazyImages:
        """Return the first `count` images without reading them."""
        ...


@dataclass(frozen=True)
class MappedImages:
    """Values in an uncompressed file, from byte `offset` on; read on access."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str = "uint8"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        return np.asarray(self._values[index])

    def head(self, count: int) -> MappedImages:
        """Return the first `count` images without reading them."""
        return MappedImages(self.path, self.offset, (count, *self.shape[1:]), self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"path": self.path, "offset": self.offset, "shape": self.shape}
        return {**kept, "dtype": self.dtype}

    @cached_property
    def _values(self) -> NDArray[Any]:
        with open_regular(self.path) as file:
            return np.memmap(
                file, np.dtype(self.dtype), mode="r", offset=self.offset, shape=self.shape
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrangedImages:
    """Values of an array, brought into the order and dtype of raw samples on access.

    Attributes:
        values: As they are stored.
        last: Whether channels are the last dimension, and become the first one of a sample.
        flat: Whether images have no dimension of channels, and get one.
        scaling: How values become those of `dtype`.
        dtype: Of the samples.
    """

    values: NDArray[Any] | MappedImages
    last: bool = False
    flat: bool = False
    scaling: Scaling = "none"
    dtype: Literal["uint8", "float32"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return `(N, ...)` as samples have it."""
        count, *rest = self.values.shape
        if self.last:
            rest = [rest[-1], *rest[:-1]]
        return (count, 1, *rest) if self.flat else (count, *rest)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        values = self.values[index]
        one = values.ndim < len(self.values.shape)
        if self.last:
            values = np.moveaxis(values, -1, 0 if one else 1)
        if self.flat:
            values = values[None] if one else values[:, None]
        return np.ascontiguousarray(scaled(values, self.scaling, self.dtype))

    def head(self, count: int) -> ArrangedImages:
        """Return the first `count` images."""
        values = self.values
        return replace(
            self, values=values.head(count) if isinstance(values, MappedImages) else values[:count]
        )


def scaled(values: NDArray[Any], scaling: Scaling, dtype: str) -> NDArray[Any]:
    """Return values as `dtype`; see `ArrangedImages`."""
    if scaling == "from 0..1":
        values = np.rint(values.astype(np.float64) * 255)
    elif scaling == "from 16 bits":
        values = (values.astype(np.int64) + 128) // 257
    return values.astype(dtype, copy=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImages:
    """Images of an array, resized, cropped and with their colours reordered on access."""

    images: NDArray[Any] | LazyImages
    input: InputSpec
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        chosen = self.images[index]
        if chosen.ndim < len(self.shape):
            return np.ascontiguousarray(prepared(chosen, self.input))
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for each, place in zip(chosen, found, strict=True):
            place[...] = prepared(each, self.input)
        return found

    def head(self, count: int) -> PreparedImages:
        """Return the first `count` images without preparing them."""
        return replace(self, images=head_of(self.images, count), shape=(count, *self.shape[1:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFiles:
    """Picture files, decoded on access, all with the same number of channels; with an `input`,
    resized, cropped and with their colours reordered by it."""

    paths: NDArray[np.bytes_]
    shape: tuple[int, ...]
    input: InputSpec | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        chosen = self.paths[index]
        if isinstance(chosen, bytes):
            return self._decoded(Path(os.fsdecode(chosen)))
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for path, place in zip(chosen, found, strict=True):
            place[...] = self._decoded(Path(os.fsdecode(path)))
        return found

    def head(self, count: int) -> ImageFiles:
        """Return the first `count` images without decoding them."""
        return replace(self, paths=self.paths[:count], shape=(count, *self.shape[1:]))

    def _decoded(self, path: Path) -> NDArray[np.uint8]:
        pixels = decode(path, self.shape[1])
        if self.input is not None:
            pixels = np.ascontiguousarray(prepared(pixels, self.input))
        if pixels.shape != self.shape[1:]:
            raise DatasetError(
                f"{path}: is {pixels.shape[2]}x{pixels.shape[1]} pixels, but others of the data "
                f"set are {self.shape[3]}x{self.shape[2]}; resize all images to one size"
            )
        return pixels


def head_of(images: NDArray[Any] | LazyImages, count: int) -> NDArray[Any] | LazyImages:
    """Return the first `count` images; those on disk stay there."""
    return images[:count] if isinstance(images, np.ndarray) else images.head(count)
