"""CIFAR-10 and CIFAR-100 as they come: the binary version, and the version for Python.

In: the folder of either version, or the folder that contains it. Out: images uint8 `[N,3,32,32]`,
labels, class names. Source of the layouts: https://www.cs.toronto.edu/~kriz/cifar.html. The version
for Python consists of pickles: they are read as data (`toolkit.data.pickles`), never unpickled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data.pickles import NotPlainDataError, PickledArray, read_pickle
from toolkit.data.raw import RawData
from toolkit.errors import DatasetError
from toolkit.files import read_regular

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MOST_BYTES = 512 << 20  # of one file; the largest has 180 MB
_MOST_NAMES_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Version:
    """One of the versions: its folder, its files, and how they are read.

    `label` is the place of the label in a row, or its key.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    names_key: str
    label: int | str
    head: int = 0

    def files(self, split: str) -> tuple[str, ...]:
        """Return the names of the files of a split."""
        return self.train if split == "train" else self.test


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    Version(
        folder="cifar-10-batches-bin",
        train=tuple(f"{name}.bin" for name in _BATCHES),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        names_key="",
        label=0,
        head=1,
    ),
    Version(
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        names_key="",
        label=1,
        head=2,
    ),
    Version(
        folder="cifar-10-batches-py",
        train=_BATCHES,
        test=("test_batch",),
        names="batches.meta",
        names_key="label_names",
        label="labels",
    ),
    Version(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        names="meta",
        names_key="fine_label_names",
        label="fine_labels",
    ),
)


def find_cifar(folder: Path) -> tuple[Path, Version] | None:
    """Return the folder of a version, and the version."""
    for version in VERSIONS:
        for place in (folder, folder / version.folder):
            here = place.name == version.folder or version.head
            if here and any((place / name).is_file() for name in version.test + version.train):
                return place, version
    return None


def read_cifar(place: Path, version: Version, split: str) -> RawData:
    """Read the images and labels of a split.

    Raises:
        DatasetError: A file is missing, damaged, or something else.
    """
    read = _read_binary if version.head else _read_batch
    parts = []
    sha256 = {}
    for name in version.files(split):
        content = _content(place / name, _MOST_BYTES)
        sha256[name] = hashlib.sha256(content).hexdigest()
        parts.append(read(place / name, content, version))
    return RawData(
        images=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
        sha256=sha256,
        class_names=_names(place / version.names, version),
        notes=(f"{version.folder}: {split} files {', '.join(version.files(split))}",),
    )


Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _read_binary(path: Path, content: bytes, version: Version) -> Part:
    size = version.head + _PIXELS
    if not content or len(content) % size:
        raise DatasetError(
            f"{path}: {len(content):,} bytes, expected a multiple of {size:,} (label and pixels "
            "of an image); download or copy it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = rows[:, int(version.label)].astype(np.int64)
    return rows[:, version.head :].reshape(-1, *_SHAPE), labels


def _read_batch(path: Path, content: bytes, version: Version) -> Part:
    found = _dictionary(path, content)
    data, labels = found.get("data"), found.get(str(version.label))
    if not isinstance(data, PickledArray) or not isinstance(labels, list):
        raise DatasetError(
            f"{path}: not a batch of {version.folder}: expected 'data' and {version.label!r}; "
            "download or copy it again"
        )
    count = len(labels)
    whole = all(type(each) is int and 0 <= each < 256 for each in labels)
    pixels = len(data.content) == count * _PIXELS and data.dtype in ("u1", "|u1")
    if not (count and whole and pixels and data.shape == (count, _PIXELS) and not data.fortran):
        raise DatasetError(
            f"{path}: expected {_PIXELS:,} bytes of uint8 for each label, found shape "
            f"{list(data.shape)} of {data.dtype} and {count:,} labels; download or copy it again"
        )
    images = np.frombuffer(data.content, np.uint8).reshape(-1, *_SHAPE)
    return images, np.array(labels, np.int64)


def _names(path: Path, version: Version) -> tuple[str, ...]:
    """Return the class names; none if the file of names is missing."""
    if not path.exists():
        return ()
    content = _content(path, _MOST_NAMES_BYTES)
    if version.head:
        lines = content.decode("utf-8", "replace").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    found = _dictionary(path, content).get(version.names_key)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise DatasetError(f"{path}: expected a list {version.names_key!r}; copy it again")
    return tuple(found)


def _dictionary(path: Path, content: bytes) -> dict[str, object]:
    try:
        found = read_pickle(content)
    except NotPlainDataError as error:
        raise DatasetError(
            f"{path}: not a file of CIFAR for Python: {error}; it is not unpickled, because that "
            "could run code: use the binary version from the same page"
        ) from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path}: holds a {type(found).__name__}, expected a dictionary")
    return {str(key): value for key, value in found.items()}


def _content(path: Path, most_bytes: int) -> bytes:
    try:
        return read_regular(path, most_bytes=most_bytes)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
