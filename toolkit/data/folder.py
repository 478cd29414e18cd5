"""A folder of pictures → a data set, in the layout of `torchvision.datasets.ImageFolder`.

The layout is `<split>/<class>/<picture>`, or `<class>/<picture>` without splits. What is hidden,
and what systems leave behind, is skipped. Classes are those of the checkpoint, or of the training
split.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.classes import (
    choose_classes,
    in_order,
    is_left_behind,
    listed,
    missing_classes,
)
from toolkit.data.geometry import changes_pixels, size_after
from toolkit.data.images import ImageFiles
from toolkit.data.pictures import OTHER_SUFFIXES, SUFFIXES
from toolkit.data.raw import RawData, Remarks, Wanted
from toolkit.data.survey import check_sizes, describe, survey
from toolkit.errors import DatasetError
from toolkit.report.progress import Progress
from toolkit.schema import InputSpec

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The folders of a data set: `train` and `test`, each None if it is missing. Without splits,
    both are the folder itself."""

    train: Path | None
    test: Path | None

    def of(self, split: str) -> Path | None:
        """Return the folder of a split."""
        return self.train if split == "train" else self.test


def find_splits(folder: Path) -> Splits | None:
    """Return the folders of the splits, if the folder holds folders of pictures."""
    own = {each.name.lower(): each for each in _folders(folder)}
    found = {
        split: next((own[name] for name in names if name in own and _has_pictures(own[name])), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if any(found.values()):
        return Splits(train=found["train"], test=found["test"])
    if _has_pictures(folder) and not {*own} & {*SPLIT_FOLDERS["train"], *SPLIT_FOLDERS["test"]}:
        return Splits(train=folder, test=folder)
    return None


def read_image_folder(
    splits: Splits, split: str, wanted: Wanted, progress: Progress
) -> RawData | None:
    """Return the pictures of a split and their labels; None if it has no folder.

    Raises:
        DatasetError: There are no pictures, some are damaged or differ in size, or the classes are
            not those of the model.
    """
    where = splits.of(split)
    if where is None:
        return None
    try:
        return _read(splits, where, split, wanted, progress)
    except OSError as error:
        raise DatasetError(
            f"cannot read {error.filename or where}: {error.strerror or error}"
        ) from error


def _read(splits: Splits, where: Path, split: str, wanted: Wanted, progress: Progress) -> RawData:
    remarks = Remarks()
    files = _classes(where, remarks)
    class_names = _class_names(splits, where, files, wanted, remarks)
    chosen = [(name, path) for name in class_names for path in files.get(name, ())]
    if not chosen:
        raise DatasetError(
            f"{where}: no pictures; expected <class>/<picture>, with one of the endings "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = [numbers[name] for name, _ in chosen]
    missing_classes(class_names, {*labels}, split=split, remarks=remarks)
    paths = [path for _, path in chosen]
    others = [] if wanted.input else _other_split(splits, where)
    images = open_pictures(paths, wanted.input, remarks, progress, others=others)
    key = f"{'all' if splits.train == splits.test else split} (names and sizes of the files)"
    return RawData(
        images=images,
        labels=np.array(labels, np.int64),
        sha256={key: checksum_of(paths, labels, where)},
        class_names=class_names,
        notes=tuple(remarks.notes),
        warnings=tuple(remarks.warnings),
        prepared=True,
    )


def open_pictures(
    paths: Sequence[Path],
    spec: InputSpec | None,
    remarks: Remarks,
    progress: Progress,
    *,
    others: Sequence[Path] = (),
) -> ImageFiles:
    """Decide how pictures are read: as the model's input says, otherwise as all of them, and
    `others` of the same data set, are.

    Raises:
        DatasetError: Some are damaged, or they differ in size.
    """
    # Bytes take a quarter of the memory that text would.
    names = np.array([os.fsencode(path) for path in paths])
    found = survey(names, progress)
    channels = found.channels
    if spec is not None and len(spec.shape) == 3 and spec.shape[0] in (1, 3, 4):
        channels = spec.shape[0]
    elif others:
        channels = max(channels, survey([os.fsencode(path) for path in others], progress).channels)
    describe(found, channels, remarks)

    def result(height: int, width: int) -> tuple[int, int]:
        return (height, width) if spec is None else size_after(height, width, spec)

    shape = (len(paths), channels, *check_sizes(found, result))
    return ImageFiles(
        paths=names, shape=shape, input=spec if spec and changes_pixels(spec) else None
    )


def checksum_of(paths: Sequence[Path], labels: Sequence[int], where: Path) -> str:
    """Return the checksum of the files' names below `where`, their sizes and their labels."""
    digest = hashlib.sha256()
    for path, label in zip(paths, labels, strict=True):
        digest.update(os.fsencode(os.path.relpath(path, where)))
        digest.update(f"\t{path.stat().st_size}\t{label}\n".encode())
    return digest.hexdigest()


def _class_names(
    splits: Splits,
    where: Path,
    files: dict[str, list[Path]],
    wanted: Wanted,
    remarks: Remarks,
) -> tuple[str, ...]:
    """Return the class names in the order of the labels: the checkpoint's, or else the names of
    the training split's folders.

    Raises:
        DatasetError: They do not say which label each class has.
    """
    defining = splits.train or where
    own = {name: bool(paths) for name, paths in files.items()}
    if not wanted.class_names and defining != where:
        own = _names(defining, remarks)
        extra = {name for name in files if files[name]} - {*own}
        known = {name for name in own if own[name]}
        if extra and len(known | extra) == wanted.classes:
            own |= dict.fromkeys(extra, True)
        elif extra:
            raise DatasetError(
                f"{where / in_order(extra)[0]}: no class of that name in {defining}, which has "
                f"{listed(in_order(known))}; remove it, or import the checkpoint with --class-names"
            )
    empty = [name for name in own if not own[name]]
    if empty and not wanted.class_names and wanted.classes is None:
        raise DatasetError(
            f"{defining / empty[0]}: a class without pictures; expected files with one of the "
            f"endings {', '.join(sorted(SUFFIXES))}: add some, or remove the folder"
        )
    return choose_classes(
        [name for name in own if own[name]],
        wanted,
        where=str(defining),
        empty=empty,
        remarks=remarks,
    )


def _classes(where: Path, remarks: Remarks) -> dict[str, list[Path]]:
    """Return the pictures of each folder in `where`; say what was skipped."""
    skipped: Counter[str] = Counter()
    names = _names(where, remarks)
    found = {name: sorted(_pictures(where / name, skipped)) for name in names}
    _say_skipped(where, skipped, remarks)
    return found


def _names(where: Path, remarks: Remarks) -> dict[str, bool]:
    """Return the folders in `where`, and whether there are pictures in each; say what was
    skipped."""
    folders = sorted(each.name for each in _folders(where, left_behind=True))
    left_behind = Counter(f"folder {name}" for name in folders if is_left_behind(name))
    _say_skipped(where, left_behind, remarks)
    return {name: _holds_any(where / name) for name in folders if not is_left_behind(name)}


def _say_skipped(where: Path, skipped: Counter[str], remarks: Remarks) -> None:
    if skipped:
        what = listed([f"{name} ({n:,} times)" if n > 1 else name for name, n in skipped.items()])
        remarks.warnings.append(f"{where}: skipped {what}")


def _pictures(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the pictures in a folder and its subfolders, and count what is skipped."""
    for place, folders, names in os.walk(folder):
        for name in filter(is_left_behind, folders):
            skipped[f"folder {name}"] += 1
        named = [name for name in folders if Path(name).suffix.lower() in SUFFIXES]
        folders[:] = [name for name in folders if not is_left_behind(name) and name not in named]
        for name in names + named:  # a folder with the name of a picture is refused with its name
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES and is_left_behind(name):
                skipped["hidden files"] += 1
            elif suffix in SUFFIXES:
                yield Path(place, name)
            elif suffix in OTHER_SUFFIXES:
                skipped[f"files ending in {suffix}, which cannot be read"] += 1


def _other_split(splits: Splits, where: Path) -> list[Path]:
    other = splits.test if where == splits.train else splits.train
    if other is None or other == where:
        return []
    return [path for paths in _classes(other, Remarks()).values() for path in paths]


def _folders(folder: Path, *, left_behind: bool = False) -> list[Path]:
    """Return the folders in a folder."""
    try:
        inside = [each for each in folder.iterdir() if each.is_dir()]
    except OSError:
        return []
    return [each for each in inside if left_behind or not is_left_behind(each.name)]


def _holds_any(folder: Path) -> bool:
    return next(_pictures(folder, Counter()), None) is not None


def _has_pictures(folder: Path) -> bool:
    """Return whether a folder has folders with pictures in them, none of which is a data set with
    splits of its own."""
    inside = _folders(folder)
    splits = {*SPLIT_FOLDERS["train"], *SPLIT_FOLDERS["test"]}
    if any({inner.name.lower() for inner in _folders(each)} & splits for each in inside):
        return False
    return any(map(_holds_any, inside))
