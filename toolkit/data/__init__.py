"""Datasets: files → raw samples and int64 labels, without a network.

In: nothing (the bundled MNIST), or a path with a data set in one of the layouts that `layouts`
recognises. Out: a `Dataset` as the checkpoint's model takes it: images resized, cropped and in its
order of colours, labels in the order of its logits. Scaling and normalisation are not done here:
they are arithmetic of the model's input (`toolkit.data.preprocessing`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.data.classes import listed
from toolkit.data.geometry import changes_pixels, size_after
from toolkit.data.idx_folder import read_idx_folder
from toolkit.data.images import LazyImages, PreparedImages, head_of
from toolkit.data.layouts import read_layout
from toolkit.data.raw import RawData, Wanted
from toolkit.errors import DatasetError, ToolkitWarning
from toolkit.places import without_places
from toolkit.report.progress import Progress, silent
from toolkit.schema import Checkpoint, DatasetRecord, InputSpec

Split = Literal["train", "test"]

MNIST = Path(__file__).parent / "mnist"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Raw samples uint8 or float32 `[N,...]`, `[N,C,H,W]` for images, and labels int64 `[N]`, with
    the record that identifies them.

    Images of large files are read on access. `class_names` are in the order of the labels; empty if
    the data has none.
    """

    images: NDArray[Any] | LazyImages
    labels: NDArray[np.int64]
    record: DatasetRecord
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Return the number of class names, or else one more than the largest label."""
        return max(len(self.class_names), int(self.labels.max()) + 1)

    def chunks(self, size: int) -> Iterator[NDArray[Any]]:
        """Return the images in order, `size` at a time; the last chunk may be smaller."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]

    def head(self, count: int) -> Dataset:
        """Return the first `count` images; the record says that they are a part."""
        if count >= len(self):
            return self
        record = replace(self.record, name=f"{self.record.name}[:{count}]", images=count)
        images = head_of(self.images, count)
        return replace(self, images=images, labels=self.labels[:count], record=record)


def load_dataset(
    split: Split,
    path: Path | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Load the `split` of the bundled MNIST, or of the data set at `path`; see `layouts`.

    Args:
        split: `train` or `test`; `val`, `valid` and `validation` are names of the latter.
        path: A folder or a file.
        checkpoint: Images are resized and cropped as its input says, and classes are its classes.
            None is for a training: the data then says what they are.
        progress: Receives the progress of reading headers, if that takes seconds.

    Raises:
        DatasetError: Files are missing or damaged, counts differ, a bundled file was changed, or
            the data does not fit the checkpoint.

    Warns:
        ToolkitWarning: How something was read that could have been meant differently.
    """
    wanted = Wanted() if checkpoint is None else _wanted(checkpoint)
    if path is None:
        found = read_idx_folder(MNIST, split)
        _check_bundled(found.sha256)
        name = "mnist"
    else:
        found = read_layout(path, split, wanted, progress)
        name = _name(path)
    labels, class_names = _numbered(found, wanted, name)
    for text in found.warnings:
        warnings.warn(text, ToolkitWarning, stacklevel=2)
    dataset = Dataset(
        images=found.images if found.prepared else _prepared(found, wanted.input),
        labels=labels,
        class_names=class_names,
        record=DatasetRecord(
            name=name,
            split=split,
            images=len(labels),
            sha256=found.sha256,
            notes=_recorded((*found.notes, *found.warnings), path),
        ),
    )
    if checkpoint is not None:
        _check_dtype(found, name, checkpoint)
        check_fits(dataset, checkpoint)
    return dataset


def _wanted(checkpoint: Checkpoint) -> Wanted:
    return Wanted(
        input=checkpoint.input,
        class_names=checkpoint.class_names,
        classes=checkpoint.classes,
    )


def _prepared(found: RawData, spec: InputSpec | None) -> NDArray[Any] | LazyImages:
    """Return images of an array, resized and cropped on access if the model asks for it."""
    shape = found.images.shape
    if spec is None or spec.dtype != "uint8" or len(shape) != 4 or not changes_pixels(spec):
        return found.images
    size = size_after(shape[2], shape[3], spec)
    return PreparedImages(images=found.images, input=spec, shape=(*shape[:2], *size))


def _numbered(
    found: RawData, wanted: Wanted, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels as the numbers of the checkpoint's logits: data with class names is matched
    by them if the checkpoint has the same names in another order.

    Raises:
        DatasetError: A label has no name.
    """
    own, theirs = found.class_names, wanted.class_names
    if not own or not theirs or own == theirs or {*own} != {*theirs}:
        return found.labels, own
    if len({*own}) != len(own) or int(found.labels.max()) >= len(own):
        raise DatasetError(
            f"data set {name} has {len(own)} class names ({listed(own)}) and label "
            f"{int(found.labels.max())}; expected one name for each label"
        )
    numbers = np.array([theirs.index(each) for each in own], np.int64)
    return numbers[found.labels], theirs


def _recorded(texts: tuple[str, ...], path: Path | None) -> tuple[str, ...]:
    """Return notes for a record, which names no folder above the data set."""
    if path is None:
        return texts
    above = rf"(?<![\w/]){re.escape(str(path.parent))}/" if path.parent != Path() else r"$^"
    return tuple(without_places(re.sub(above, "", text)) for text in texts)


def _name(path: Path) -> str:
    resolved = path.resolve()
    return (resolved.name if path.is_dir() else resolved.stem) or str(path)


def _check_dtype(found: RawData, name: str, checkpoint: Checkpoint) -> None:
    """Raise DatasetError if the model takes float samples and the data set holds images."""
    if found.dtype != checkpoint.input.dtype:
        raise DatasetError(
            f"data set {name} holds images of bytes, but checkpoint {checkpoint.name} expects "
            "float32 samples; give a .npz file or .npy files with --data"
        )


def check_fits(dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Raise DatasetError unless images and labels fit the checkpoint's model."""
    found, wanted = dataset.images.shape[1:], checkpoint.input.shape
    if found != wanted:
        what = " (channels, height, width)" if len(wanted) == 3 else ""
        raise DatasetError(
            f"data set {dataset.record.name} has images of shape {list(found)}, but checkpoint "
            f"{checkpoint.name} expects {list(wanted)}{what}; "
            "give the data set it was trained on with --data, or import the checkpoint with "
            "--resize and --crop"
        )
    if dataset.labels.min() < 0 or dataset.labels.max() >= checkpoint.classes:
        lowest, highest = int(dataset.labels.min()), int(dataset.labels.max())
        advice = "give the data set it was trained on with --data"
        if (lowest, highest) == (1, checkpoint.classes):
            advice = "its labels count from 1: save them less 1"
        raise DatasetError(
            f"data set {dataset.record.name} has label {lowest if lowest < 0 else highest}, out of "
            f"range for checkpoint {checkpoint.name} with {checkpoint.classes} classes "
            f"(labels 0 to {checkpoint.classes - 1}); {advice}"
        )


def _check_bundled(sha256: dict[str, str]) -> None:
    for name, found in sha256.items():
        if found != MNIST_SHA256[name]:
            raise DatasetError(
                f"{MNIST / name}: sha256 {found}, expected {MNIST_SHA256[name]}; the bundled data "
                "was changed: reinstall the toolkit"
            )
