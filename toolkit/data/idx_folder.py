"""A folder of IDX files → a data set: MNIST, Fashion-MNIST, EMNIST and others as they come.

In: a folder that holds the files, or one that `torchvision.datasets` made: they are then in
`<Name>/raw/`. Out: images and labels. Several sets in one folder are told apart by the word in
their names, such as `emnist-letters-train-...`: the last part of the path names it, as in
`EMNIST/letters`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data.idx import read_idx
from toolkit.data.images import LazyImages, MappedImages
from toolkit.data.raw import RawData
from toolkit.errors import DatasetError

_SPLIT_WORDS = {"train": ("train",), "test": ("t10k", "test", "val", "valid", "validation")}
_WORDS = re.compile(r"[-_.]")


def holds_idx(folder: Path) -> bool:
    """Return whether the folder holds IDX files, by their names."""
    where, word = _place(folder)
    return any(_files(where, word, kind) for kind in ("images-idx", "labels-idx"))


def read_idx_folder(folder: Path, split: str) -> RawData:
    """Read the images and labels of a split.

    Images are in a file whose name contains `train`, or `t10k` or `test`, and `images-idx3` (grey)
    or `images-idx4` (`[N,C,H,W]`); labels in one with `labels-idx1`. `.gz` files are read as well.

    Raises:
        DatasetError: Files are missing, ambiguous or damaged, or counts differ.
    """
    images_path = _find(folder, split, "images-idx")
    labels_path = _find(folder, split, "labels-idx1")
    images_file = read_idx(images_path, dimensions=(3, 4))
    labels_file = read_idx(labels_path, dimensions=(1,))
    images, labels = _with_channels(images_path, images_file.values), labels_file.values
    if len(images) != len(labels):
        raise DatasetError(
            f"{images_path} holds {len(images)} images but {labels_path} holds {len(labels)} "
            "labels; both must come from the same data set"
        )
    return RawData(
        images=images,
        labels=labels.astype(np.int64),
        sha256={_stem(images_path): images_file.sha256, _stem(labels_path): labels_file.sha256},
    )


def _with_channels(path: Path, values: NDArray[np.uint8]) -> NDArray[np.uint8] | LazyImages:
    """Return `[N,C,H,W]`, with one channel if the file has none; memory-mapped data stays
    mapped."""
    shape = values.shape if values.ndim == 4 else (len(values), 1, *values.shape[1:])
    if isinstance(values, np.memmap):
        return MappedImages(path, values.offset, shape)
    return values.reshape(shape)


def _place(folder: Path) -> tuple[Path, str]:
    """Return the folder to search, and the word that names one of several sets in it."""
    return (folder, "") if folder.is_dir() else (folder.parent, folder.name.lower())


def _files(folder: Path, word: str, kind: str) -> list[Path]:
    return sorted(
        path
        for place in (folder, folder / "raw", *folder.glob("*/raw"))
        for path in place.glob(f"*{kind}*")
        if not path.name.startswith(".") and (not word or word in _words(path))
    )


def _words(path: Path) -> set[str]:
    return {*_WORDS.split(path.name.lower())}


def _find(folder: Path, split: str, kind: str) -> Path:
    where, word = _place(folder)
    words = _SPLIT_WORDS[split]
    found = [path for path in _files(where, word, kind) if _words(path) & {*words}]
    by_stem = {path.parent / _stem(path): path for path in reversed(found)}  # plain before .gz
    if len(by_stem) == 1:
        return next(iter(by_stem.values()))
    expected = f"one file named *{'|'.join(words[:2])}*{kind}*ubyte[.gz]"
    names = [path.name for path in found]
    advice = ""
    if len({path.parent for path in found}) > 1:
        places = sorted({str(path.parent.parent) for path in found})
        advice = f"; they are several data sets: give one of them, such as --data {places[0]}"
    elif all(name.startswith("emnist-") for name in names) and names:
        advice = f"; name one of them, such as --data {where / names[0].split('-')[1]}"
    raise DatasetError(f"{folder}: expected {expected}, found {', '.join(names) or 'none'}{advice}")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")
