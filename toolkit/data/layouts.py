"""Layouts: where the samples and labels of a data set are, by what a path holds.

In: a path and a split. Out: raw data. A layout is recognised by the names of files and folders; one
message names all layouts, and what was seen instead.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.data.arrangement import arranged
from toolkit.data.arrays import checksums, find_pair, holds_arrays, labels_of, read_values
from toolkit.data.cifar import find_cifar, read_cifar
from toolkit.data.classes import in_order, listed
from toolkit.data.folder import find_splits, read_image_folder
from toolkit.data.idx_folder import holds_idx, read_idx_folder
from toolkit.data.raw import RawData, Remarks, Wanted
from toolkit.data.table import any_names, find_tables, read_table
from toolkit.errors import DatasetError
from toolkit.report.progress import Progress

LAYOUTS = (
    "a folder of pictures (train/<class>/<picture> and test/<class>/<picture>, val/ for test/, or "
    "<class>/<picture> without splits), IDX files (MNIST, Fashion-MNIST, EMNIST), CIFAR-10 or "
    "CIFAR-100 as they come, a .npz file or .npy files (x_test and y_test), or a .csv file with "
    "the columns path and label"
)


def read_layout(path: Path, split: str, wanted: Wanted, progress: Progress) -> RawData:
    """Read a split of the data set at a path.

    Raises:
        DatasetError: There is none, it has no such split, or it is damaged.
    """
    found = _read(path, split, wanted, progress)
    if found is None:
        raise DatasetError(
            f"{path}: no {split} images; {_seen(path)}. --data takes {LAYOUTS}: see docs/data.md"
        )
    return found


def _read(path: Path, split: str, wanted: Wanted, progress: Progress) -> RawData | None:
    if holds_idx(path):
        return read_idx_folder(path, split)
    if not path.exists():
        raise DatasetError(f"no folder {path}; --data takes {LAYOUTS}: see docs/data.md")
    cifar = find_cifar(path)
    if cifar is not None:
        return read_cifar(*cifar, split)
    splits = find_splits(path) if path.is_dir() else None
    tables = find_tables(path)
    listed_in_table = splits is not None and splits.train == splits.test and any_names(tables)
    if splits is not None and not listed_in_table:
        return read_image_folder(splits, split, wanted, progress)
    if tables:
        return read_table(tables, split, wanted, progress)
    return _read_arrays(path, split, wanted) if holds_arrays(path) else None


def _read_arrays(path: Path, split: str, wanted: Wanted) -> RawData:
    pair, remarks = find_pair(path, split), Remarks()
    samples, sha256 = read_values(pair.images)
    targets, sha256_of_labels = read_values(pair.labels)
    labels = labels_of(pair.labels, targets)
    if len(samples.shape) < 2 or len(samples) != len(labels):
        raise DatasetError(
            f"{pair.images} has shape {list(samples.shape)} but {pair.labels} has {len(labels)} "
            "labels; expected as many samples, [N,...]"
        )
    images = arranged(str(pair.images), samples, wanted.input, remarks)
    return RawData(
        images=images,
        labels=labels,
        sha256=dict(checksums(pair, sha256, sha256_of_labels)),
        dtype="float32" if wanted.input and wanted.input.dtype == "float32" else "uint8",
        notes=tuple(remarks.notes),
        warnings=tuple(remarks.warnings),
    )


def _seen(path: Path) -> str:
    """Return what a path holds."""
    if not path.is_dir():
        return f"found a file named {path.name}"
    try:
        names = [f"{each.name}/" if each.is_dir() else each.name for each in path.iterdir()]
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return f"found {listed(in_order(names)) or 'nothing in it'}"
