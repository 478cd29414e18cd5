"""A table of pictures: a CSV file of paths and labels → a data set.

In: `labels.csv` with a column of paths, one of labels and perhaps one of splits; or a folder with
`train.csv` and `test.csv`. Out: pictures and labels. Paths are relative to the folder of the table
and stay in it. Labels are class names or numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.classes import choose_classes, listed, missing_classes
from toolkit.data.folder import SPLIT_FOLDERS, checksum_of, open_pictures
from toolkit.data.pictures import SUFFIXES
from toolkit.data.raw import RawData, Remarks, Wanted
from toolkit.errors import DatasetError
from toolkit.files import open_regular, read_regular
from toolkit.report.progress import Progress

_MOST_BYTES = 256 << 20
_MOST_HEADING_BYTES = 1 << 16
_SEPARATORS = ",;\t"
_COLUMNS = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img"),
        *("image_path", "img_path", "image_name", "picture"),
    ),
    "label": ("label", "class", "target", "category", "y", "labels", "class_name", "label_name"),
    "split": ("split", "set", "subset", "partition"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of a table; `split` is empty if the table names none."""

    path: str
    label: str
    split: str


def find_tables(path: Path) -> list[Path]:
    """Return the table, or those in a folder."""
    if path.suffix.lower() in (".csv", ".tsv") and path.exists() and not path.is_dir():
        return [path]
    if not path.is_dir():
        return []
    inside = [*path.glob("*.csv"), *path.glob("*.tsv")]
    return sorted(each for each in inside if not each.name.startswith("."))


def any_names(tables: Sequence[Path]) -> bool:
    """Return whether one of the tables begins with a heading of paths and labels: the folders
    beside it are then no classes."""
    for table in tables:
        try:
            with open_regular(table) as file:
                first = file.readline(_MOST_HEADING_BYTES).decode("utf-8-sig", "replace")
        except OSError:
            continue
        heading = _cells_of(first)
        if _found(heading) is not None or _is_row(heading):
            return True
    return False


def _cells_of(line: str) -> list[str]:
    return [cell.strip().lower() for cell in line.split(_separator(line))]


def _separator(line: str) -> str:
    return max(_SEPARATORS, key=line.count)


def read_table(
    tables: Sequence[Path], split: str, wanted: Wanted, progress: Progress
) -> RawData | None:
    """Return the pictures and labels of a split; None if the tables have none of it.

    Raises:
        DatasetError: A table is damaged, a picture is missing or outside its folder, or the classes
            are not those of the model.
    """
    rows = {table: read_rows(table) for table in _chosen(tables)}
    own = [(table, row) for table, its in rows.items() for row in its if _split(table, row, split)]
    if not own:
        return None
    remarks = Remarks()
    name = split if len(own) < sum(map(len, rows.values())) else "all"
    where = str(tables[0]) if len(tables) == 1 else str(tables[0].parent)
    names = {row.label for its in rows.values() for row in its}
    labels, class_names = _labels([row.label for _, row in own], names, wanted, where, remarks)
    kept = [(place, label) for place, label in zip(own, labels, strict=True) if label >= 0]
    paths = [_inside(table, row) for (table, row), _ in kept]
    numbers = [label for _, label in kept]
    if class_names:
        missing_classes(class_names, {*numbers}, split=split, remarks=remarks)
    try:
        sha256 = checksum_of(paths, numbers, tables[0].parent)
    except OSError as error:
        raise DatasetError(
            f"{where}: cannot read {error.filename}: {error.strerror or error}; paths are relative "
            "to the table's folder"
        ) from error
    return RawData(
        images=open_pictures(paths, wanted.input, remarks, progress),
        labels=np.array(numbers, np.int64),
        sha256={f"{name} (names and sizes of the files)": sha256},
        class_names=class_names,
        notes=tuple(remarks.notes),
        warnings=tuple(remarks.warnings),
        prepared=True,
    )


def _chosen(tables: Sequence[Path]) -> list[Path]:
    """Return the tables named after a split, or the only one.

    Raises:
        DatasetError: There are several others.
    """
    every = {*SPLIT_FOLDERS["train"], *SPLIT_FOLDERS["test"]}
    named = [each for each in tables if each.stem.lower() in every]
    if named or len(tables) == 1:
        return named or list(tables)
    raise DatasetError(
        f"{tables[0].parent}: several tables ({listed([each.name for each in tables])}), expected "
        "train.csv and test.csv, or one; give one of them with --data"
    )


def _split(table: Path, row: Row, split: str) -> bool:
    """Return whether a row belongs to a split: by its own word, by the table's name, or because
    neither names one."""
    word = row.split or table.stem.lower()
    if word in SPLIT_FOLDERS[split]:
        return True
    return not row.split and not any(word in words for words in SPLIT_FOLDERS.values())


def _labels(
    own: Sequence[str], names: set[str], wanted: Wanted, where: str, remarks: Remarks
) -> tuple[list[int], tuple[str, ...]]:
    """Return a number for each label, -1 for those that are skipped, and the class names; none if
    the labels are numbers."""
    numeric = all(each.isascii() and each.isdigit() and len(each) < 10 for each in names)
    if numeric and not names <= {*wanted.class_names}:
        return [int(each) for each in own], ()
    class_names = choose_classes(names, wanted, where=where, remarks=remarks)
    numbers = {name: number for number, name in enumerate(class_names)}
    return [numbers.get(each, -1) for each in own], class_names


def _inside(table: Path, row: Row) -> Path:
    """Return the path of a picture.

    Raises:
        DatasetError: It is outside the table's folder.
    """
    given = Path(row.path)
    if given.is_absolute() or ".." in given.parts:
        raise DatasetError(
            f"{table}: {row.path} is outside its folder; expected a path relative to "
            f"{table.parent}: move the table to a folder that contains the pictures"
        )
    return table.parent / given


def read_rows(table: Path) -> list[Row]:
    """Read the rows of a table.

    Raises:
        DatasetError: Not a table of paths and labels.
    """
    try:
        text = read_regular(table, most_bytes=_MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"cannot read {table}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table}: not UTF-8 text; save it as CSV in UTF-8") from error
    separator = _separator(text.split("\n", 1)[0])
    try:
        lines = [
            (number, [cell.strip() for cell in line])
            for number, line in enumerate(csv.reader(io.StringIO(text), delimiter=separator), 1)
            if any(cell.strip() for cell in line)
        ]
    except csv.Error as error:
        raise DatasetError(f"{table}: not a table: {error}") from error
    if not lines:
        raise DatasetError(f"{table}: holds no rows; expected paths and labels")
    columns, lines = _columns(table, lines)
    return [_row(table, number, cells, columns) for number, cells in lines]


Lines = list[tuple[int, list[str]]]


def _columns(table: Path, lines: Lines) -> tuple[dict[str, int], Lines]:
    """Return the place of each column, and the lines below the heading. Without a heading, the
    first column is the path and the second the label."""
    heading = [cell.lower() for cell in lines[0][1]]
    found = _found(heading)
    if found is not None:
        return found, lines[1:]
    if _is_row(heading):
        return {"path": 0, "label": 1}, lines
    raise DatasetError(
        f"{table}: its first line is {listed(lines[0][1])!r}, expected a heading with the columns "
        "path and label"
    )


def _found(heading: Sequence[str]) -> dict[str, int] | None:
    """Return the place of each known column; None without one of paths and one of labels."""
    places = {
        kind: next((heading.index(name) for name in names if name in heading), None)
        for kind, names in _COLUMNS.items()
    }
    if places["path"] is None or places["label"] is None:
        return None
    return {kind: at for kind, at in places.items() if at is not None}


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) == 2 and Path(cells[0]).suffix in SUFFIXES


def _row(table: Path, number: int, cells: list[str], columns: dict[str, int]) -> Row:
    if max(columns.values()) >= len(cells):
        raise DatasetError(
            f"{table}, line {number}: {len(cells)} cells, expected at least "
            f"{max(columns.values()) + 1}"
        )
    found = {kind: cells[at] for kind, at in columns.items()}
    if not found["path"] or not found["label"]:
        raise DatasetError(f"{table}, line {number}: expected a path and a label")
    if "\0" in found["path"]:
        raise DatasetError(f"{table}, line {number}: its path has a zero character")
    return Row(path=found["path"], label=found["label"], split=found.get("split", "").lower())
