"""Datasets: files → raw uint8 images and int64 labels, without a network.

In: nothing (the bundled MNIST), a folder of IDX files, or a folder of images. Out: a `Dataset`.
Normalisation is not done here: it belongs to the model's input spec (`toolkit.data.preprocessing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.data.folder import is_image_folder, read_image_folder
from toolkit.data.idx import read_idx
from toolkit.data.images import ImageFiles, Images, MappedImages
from toolkit.errors import DatasetError
from toolkit.schema import Checkpoint, DatasetRecord

Split = Literal["train", "test"]

MNIST = Path(__file__).parent / "mnist"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_SPLIT_NAMES = {"train": ("train",), "test": ("t10k", "test")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Raw images uint8 `[N,C,H,W]` and labels int64 `[N]`, with the record that identifies them.

    Images of large files are read on access.
    """

    images: Images
    labels: NDArray[np.int64]
    record: DatasetRecord

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Return one more than the largest label."""
        return int(self.labels.max()) + 1

    def chunks(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Return the images in order, `size` at a time; the last chunk may be smaller."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]

    def head(self, count: int) -> Dataset:
        """Return the first `count` images; the record says that they are a part."""
        if count >= len(self):
            return self
        record = DatasetRecord(
            name=f"{self.record.name}[:{count}]",
            split=self.record.split,
            images=count,
            sha256=self.record.sha256,
        )
        if isinstance(self.images, MappedImages | ImageFiles):
            images: Images = self.images.head(count)
        else:
            images = self.images[:count]
        return Dataset(images=images, labels=self.labels[:count], record=record)


def load_dataset(split: Split, folder: Path | None = None) -> Dataset:
    """Load the `split` of the bundled MNIST, or of the IDX files or images in `folder`.

    Images are at `train/<class>/<image>` and `test/<class>/<image>` in `folder`. For IDX files,
    `folder` may contain the files, or be a folder made by `torchvision.datasets` (the files are
    then in `<Name>/raw/`). The name of a file contains `train`, or `t10k` or `test`, and
    `images-idx3` (grey), `images-idx4` (`[N,C,H,W]`) or `labels-idx1`; `.gz` files are read as
    well.

    Raises:
        DatasetError: Files are missing or damaged, counts differ, or a bundled file was changed.
    """
    if folder is not None and is_image_folder(folder):
        return _from_images(folder, split)
    where = MNIST if folder is None else folder
    images_path = _find(where, split, "images-idx")
    labels_path = _find(where, split, "labels-idx1")
    images_file = read_idx(images_path, dimensions=(3, 4))
    labels_file = read_idx(labels_path, dimensions=(1,))
    sha256 = {_stem(images_path): images_file.sha256, _stem(labels_path): labels_file.sha256}
    if folder is None:
        _check_bundled(sha256)
    images, labels = _with_channels(images_path, images_file.values), labels_file.values
    if len(images) != len(labels):
        raise DatasetError(
            f"{images_path} holds {len(images)} images but {labels_path} holds {len(labels)} "
            "labels; both must come from the same data set"
        )
    name = "mnist" if folder is None else _name(folder)
    return Dataset(
        images=images,
        labels=labels.astype(np.int64),
        record=DatasetRecord(name=name, split=split, images=len(images), sha256=sha256),
    )


def _from_images(folder: Path, split: Split) -> Dataset:
    images, labels, sha256 = read_image_folder(folder, split)
    record = DatasetRecord(name=_name(folder), split=split, images=len(images), sha256=sha256)
    return Dataset(images=images, labels=labels, record=record)


def _with_channels(path: Path, values: NDArray[np.uint8]) -> Images:
    """Return `[N,C,H,W]`, with one channel if the file has none; memory-mapped data stays
    mapped."""
    shape = values.shape if values.ndim == 4 else (len(values), 1, *values.shape[1:])
    if isinstance(values, np.memmap):
        return MappedImages(path, values.offset, shape)
    return values.reshape(shape)


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def check_fits(dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Raise DatasetError unless images and labels fit the checkpoint's model."""
    found = dataset.images.shape[1:]
    if found != checkpoint.input.shape:
        raise DatasetError(
            f"data set {dataset.record.name} has images of shape {list(found)}, but checkpoint "
            f"{checkpoint.name} expects {list(checkpoint.input.shape)} (channels, height, width); "
            "give the data set it was trained on with --data"
        )
    if dataset.classes > checkpoint.classes:
        raise DatasetError(
            f"data set {dataset.record.name} has label {dataset.classes - 1}, out of range for "
            f"checkpoint {checkpoint.name} with {checkpoint.classes} classes "
            f"(labels 0 to {checkpoint.classes - 1}); give the data set it was trained on "
            "with --data"
        )


def _find(folder: Path, split: Split, kind: str) -> Path:
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}; --data takes a folder of IDX files")
    found = sorted(
        path
        for place in (folder, folder / "raw", *folder.glob("*/raw"))
        for path in place.glob(f"*{kind}*")
        if {*re.split(r"[-_.]", path.name.lower())} & {*_SPLIT_NAMES[split]}
    )
    by_stem = {
        path.parent / _stem(path): path for path in reversed(found)
    }  # plain files before .gz
    if len(by_stem) == 1:
        return next(iter(by_stem.values()))
    expected = f"one file named *{'|'.join(_SPLIT_NAMES[split])}*{kind}*ubyte[.gz]"
    listed = ", ".join(path.name for path in found) or "none"
    raise DatasetError(f"{folder}: expected {expected}, found {listed}")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _check_bundled(sha256: dict[str, str]) -> None:
    for name, found in sha256.items():
        if found != MNIST_SHA256[name]:
            raise DatasetError(
                f"{MNIST / name}: sha256 {found}, expected {MNIST_SHA256[name]}; the bundled data "
                "was changed: reinstall the toolkit"
            )
