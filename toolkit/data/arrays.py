"""Arrays in `.npz` and `.npy` files → a data set.

In: an `.npz` file, or a folder with `.npz` or `.npy` files. Out: samples and labels. Nothing is
unpickled. Values of a plain `.npy` file are read on access; of an archive, no more is unpacked than
a header announces and its packed bytes can hold.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.data.images import MappedImages
from toolkit.errors import DatasetError, headline
from toolkit.files import open_regular, sha256_of_open

_HEAD_BYTES = 16 << 10
_MOST_UNPACKED = 1032  # bytes that deflate can make of one: https://zlib.net/zlib_tech.html
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK_BYTES = 1 << 20
_WORDS = re.compile(r"[^a-z0-9]+")
_IMAGES = {"x", "image", "images", "data", "inputs", "features", "samples", "imgs", "signals"}
_LABELS = {"y", "label", "labels", "target", "targets", "classes"}
_SPLITS = {
    "train": {"train", "training"},
    "test": {"test", "testing", "val", "valid", "validation", "t10k"},
}
_AS_TEST = ("test", "testing", "t10k", "val", "valid", "validation")

Values = NDArray[Any] | MappedImages


@dataclass(frozen=True, kw_only=True)
class Place:
    """An array in a file: the file itself, or the member of an archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Return the name of the array, without endings."""
        return (self.member or self.path.name).removesuffix(".npy")

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Where the samples and labels of a split are."""

    images: Place
    labels: Place


def holds_arrays(path: Path) -> bool:
    """Return whether the path is a file of arrays, or a folder that holds some."""
    if path.suffix.lower() in (".npz", ".npy"):
        return path.exists() and not path.is_dir()
    return path.is_dir() and any(_files(path))


def find_pair(path: Path, split: str) -> Pair:
    """Find the arrays of a split by their names, such as `x_train` and `y_train`.

    Raises:
        DatasetError: There are none, or more than one pair.
    """
    files = _files(path) if path.is_dir() else [path]
    places: list[Place] = []
    for file in files:
        places += _members(file) if file.suffix.lower() == ".npz" else [Place(path=file)]
    found = {kind: _choose(places, words, split) for kind, words in _KINDS.items()}
    if found["images"] and found["labels"]:
        return Pair(images=found["images"], labels=found["labels"])
    names = ", ".join(each.name for each in places[:10]) or "none"
    raise DatasetError(
        f"{path}: expected arrays named x_{split} and y_{split}, images_{split} and "
        f"labels_{split}, or x and y, found {names}"
    )


_KINDS = {"images": _IMAGES, "labels": _LABELS}


def _files(folder: Path) -> list[Path]:
    return sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() in (".npz", ".npy") and not each.name.startswith(".")
    )


def _choose(places: list[Place], kind: set[str], split: str) -> Place | None:
    """Return the array of a kind: of the split by its name, or else of no split.

    Raises:
        DatasetError: There are several.
    """
    every = [*_SPLITS["train"], *_SPLITS["test"]]
    own = [each for each in places if _words(each.name) & kind]
    for word in _AS_TEST if split == "test" else ("train", "training"):
        named = [each for each in own if word in _words(each.name) | _words(each.path.stem)]
        if named:
            return _only(named)
    rest = [
        each for each in own if not (_words(each.name) | _words(each.path.stem)).intersection(every)
    ]
    return _only(rest) if rest else None


def _only(places: list[Place]) -> Place:
    if len(places) > 1:
        raise DatasetError(
            f"{places[0].path}: expected one array of a kind, found "
            f"{', '.join(each.name for each in places)}; give a file with one pair of arrays"
        )
    return places[0]


def _words(name: str) -> set[str]:
    """Return the words of a name; `X_train`, `trainImages` and `xtest` have two."""
    parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = {*_WORDS.split(parts.lower())}
    for word in [*words]:
        for prefix in ("x", "y"):
            if word.removeprefix(prefix) in _SPLITS["train"] | _SPLITS["test"]:
                words |= {prefix, word.removeprefix(prefix)} if word.startswith(prefix) else set()
    return words


def _members(path: Path) -> list[Place]:
    with _archive(path) as archive:
        return [
            Place(path=path, member=each.filename)
            for each in archive.infolist()
            if each.filename.endswith(".npy")
        ]


def read_values(place: Place) -> tuple[Values, str]:
    """Return an array, and the checksum of its file or of its bytes.

    Raises:
        DatasetError: Damaged, of objects, or too large for the memory.
    """
    return _mapped(place.path) if place.member is None else _unpacked(place)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What the header of an array says; the values begin at `offset`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _mapped(path: Path) -> tuple[Values, str]:
    try:
        with open_regular(path) as file:
            form = _form(str(path), file.read(_HEAD_BYTES))
            size_bytes = os.fstat(file.fileno()).st_size - form.offset
            _check_size(str(path), form, size_bytes)
            sha256 = sha256_of_open(file)
            if not form.fortran:
                where = (path, form.offset, form.shape, form.dtype.str)
                return MappedImages(*where), sha256
            flat = np.memmap(file, form.dtype, mode="r", offset=form.offset)
            return flat.reshape(form.shape, order="F"), sha256
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error


def _unpacked(place: Place) -> tuple[Values, str]:
    with _archive(place.path) as archive:
        info = archive.getinfo(str(place.member))
        if info.compress_type not in _PACKINGS:
            raise DatasetError(f"{place}: packed in a way that numpy does not use; save it again")
        with archive.open(info) as member:
            head = member.read(_HEAD_BYTES)
            form = _form(str(place), head)
            _check_size(str(place), form, info.file_size - form.offset)
            available = psutil.virtual_memory().available
            if info.file_size > info.compress_size * _MOST_UNPACKED or info.file_size > available:
                raise DatasetError(
                    f"{place}: its header announces {info.file_size:,} bytes, more than its "
                    f"{info.compress_size:,} packed bytes can hold, or than fit into memory; "
                    "download or copy it again"
                )
            values, sha256 = _filled(place, form, member, head[form.offset :])
    own = values.view(form.dtype)
    if form.fortran:
        return own.reshape(form.shape, order="F"), sha256
    return own.reshape(form.shape), sha256


def _filled(
    place: Place, form: _Form, member: IO[bytes], begun: bytes
) -> tuple[NDArray[np.uint8], str]:
    """Read exactly the bytes that the header announces."""
    values, done = np.empty(form.size_bytes, np.uint8), 0
    digest = hashlib.sha256(f"{form.shape} {form.dtype.str} {form.fortran}".encode())
    chunk = begun
    while chunk and done < form.size_bytes:
        part = chunk[: form.size_bytes - done]
        values[done : done + len(part)] = np.frombuffer(part, np.uint8)
        digest.update(part)
        done += len(part)
        chunk = member.read(_CHUNK_BYTES)
    if done != form.size_bytes or chunk:
        raise DatasetError(f"{place}: truncated or too long; download or copy it again")
    return values, digest.hexdigest()


def _form(where: str, head: bytes) -> _Form:
    """Return what the header of an `.npy` file says.

    Raises:
        DatasetError: Not an `.npy` file, or of values that are not plain numbers.
    """
    buffer = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(buffer)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(buffer)
    except Exception as error:  # numpy raises various exceptions for damaged headers
        raise DatasetError(
            f"{where}: not an array of numpy ({headline(error)}); save it again with numpy.save"
        ) from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        kind = "Python objects, which are never unpickled" if dtype.hasobject else str(dtype)
        advice = ""
        if dtype.kind in "SU":
            kind = "text"
            advice = "; of the names of classes, save the place of each in --class-names"
        raise DatasetError(f"{where}: holds {kind}, expected numbers: integers or floats{advice}")
    if any(size < 0 for size in shape):
        raise DatasetError(f"{where}: shape {list(shape)}, expected no negative sizes")
    return _Form(shape=shape, dtype=dtype, fortran=fortran, offset=buffer.tell())


def _check_size(where: str, form: _Form, size_bytes: int) -> None:
    if size_bytes != form.size_bytes:
        raise DatasetError(
            f"{where}: {size_bytes:,} bytes of values, expected {form.size_bytes:,} for shape "
            f"{list(form.shape)} of {form.dtype}; the file is truncated or its header is wrong: "
            "download or copy it again"
        )
    if not form.size_bytes:
        raise DatasetError(f"{where}: shape {list(form.shape)} holds no values")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors of its reading become DatasetError."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises various exceptions for damaged bytes
        raise DatasetError(
            f"{path}: not an archive of numpy ({headline(error)}); save it again with numpy.savez"
        ) from error


def labels_of(place: Place, values: Values) -> NDArray[np.int64]:
    """Return labels int64 `[N]`.

    Raises:
        DatasetError: They are not one whole number for each sample.
    """
    shape = values.shape
    if len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]
    found = np.asarray(values[:])
    if len(shape) != 1:
        hint = "; of one-hot rows, save labels.argmax(1)" if len(shape) == 2 else ""
        raise DatasetError(f"{place}: labels of shape {list(shape)}, expected [N]{hint}")
    whole = found.reshape(shape)
    if whole.min() < 0:
        raise DatasetError(f"{place}: label {whole.min()}, expected 0 or more")
    if found.dtype.kind == "f":
        if not (np.isfinite(whole) & (whole == np.rint(whole))).all():
            raise DatasetError(f"{place}: labels that are not whole numbers")
        if np.abs(whole).max() > 2**31:
            raise DatasetError(f"{place}: labels above 2^31")
    elif found.dtype == np.uint64 and whole.max() > 2**31:
        raise DatasetError(f"{place}: labels above 2^31")
    return whole.astype(np.int64)


def checksums(pair: Pair, images: str, labels: str) -> Mapping[str, str]:
    """Return the checksums by the names of the arrays; `labels` is in the name of the labels'."""
    return {
        _key(pair.images): images,
        f"{_key(pair.labels)} (labels)": labels,
    }


def _key(place: Place) -> str:
    return place.path.name if place.member is None else f"{place.path.name}: {place.name}"
