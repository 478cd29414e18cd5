"""A folder of image files → a data set, in the layout of `torchvision.datasets.ImageFolder`.

The layout is `train/<class>/<image>` and `test/<class>/<image>`. Classes are numbered in the order
of their names. The training split defines the classes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from toolkit.data.images import ImageFiles, decode
from toolkit.errors import DatasetError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}


def is_image_folder(folder: Path) -> bool:
    """Return whether the folder has a folder of classes for the training set."""
    return any(path.is_dir() for path in folder.glob("train/*"))


def read_image_folder(
    folder: Path, split: str
) -> tuple[ImageFiles, np.ndarray[tuple[int], np.dtype[np.int64]], dict[str, str]]:
    """Return images, labels int64 `[N]`, and the checksum of the files' names and sizes.

    Only the pixels of the first image are read: there may be more than fits into memory.

    Raises:
        DatasetError: There are no images, or a class is not in the training split.
    """
    try:
        return _read(folder, split)
    except OSError as error:
        raise DatasetError(
            f"cannot read {error.filename or folder}: {error.strerror or error}"
        ) from error


def _read(
    folder: Path, split: str
) -> tuple[ImageFiles, np.ndarray[tuple[int], np.dtype[np.int64]], dict[str, str]]:
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    where = folder / split
    own = sorted(path.name for path in where.iterdir() if path.is_dir()) if where.is_dir() else []
    unknown = [name for name in own if name not in classes]
    if unknown:
        raise DatasetError(
            f"{where / unknown[0]}: no class of that name in {folder / 'train'}, which has "
            f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
        )
    paths: list[str] = []
    labels: list[int] = []
    digest = hashlib.sha256()
    for name in own:
        files = sorted(
            path for path in (where / name).rglob("*") if path.suffix.lower() in _SUFFIXES
        )
        if not files:
            raise DatasetError(
                f"{where / name}: a class without images; expected files with one of the "
                f"endings {', '.join(sorted(_SUFFIXES))}: add some, or remove the folder"
            )
        for path in files:
            name_bytes = os.fsencode(path.relative_to(where))
            digest.update(name_bytes + f"\t{path.stat().st_size}\n".encode())
        paths += map(str, files)
        labels += [classes.index(name)] * len(files)
    if not paths:
        raise DatasetError(
            f"{where}: no images; expected {split}/<class>/<image>, with one of the endings "
            f"{', '.join(sorted(_SUFFIXES))}"
        )
    shape = (len(paths), *decode(Path(paths[0])).shape)
    checksum = {f"{split} (names and sizes of the files)": digest.hexdigest()}
    names = np.array(
        [os.fsencode(path) for path in paths]
    )  # a quarter of the memory that text would take
    return ImageFiles(names, shape), np.array(labels, np.int64), checksum
