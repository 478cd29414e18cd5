"""Tables of paths and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_of, picture, put_pictures
from hostile import IRREGULAR, put_irregular

from toolkit.data import load_dataset
from toolkit.errors import DatasetError, ToolkitWarning

NAMES = ("ant", "bee", "cat")
MODEL = checkpoint_of((3, 8, 8), 3)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Six pictures in a folder, and no table yet."""
    put_pictures(tmp_path, {"pictures": [picture(number) for number in range(6)]})
    return tmp_path


def rows(labels: list[object], *, separator: str = ",", extra: str = "") -> str:
    lines = [f"pictures/{n}.png{separator}{label}{extra}" for n, label in enumerate(labels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("heading", ["path,label", "Filename,Class", "image_path;target", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_paths_and_labels_are_read(pets: Path, heading: str, mark: str) -> None:
    separator = ";" if ";" in heading else ","
    text = f"{mark}{heading}\n" if heading else mark
    table = pets / "labels.csv"
    table.write_text(text + rows([2, 0, 1, 2, 0, 1], separator=separator), encoding="utf-8")
    for path in (table, pets):
        found = load_dataset("test", path, checkpoint=MODEL)
        assert found.labels.tolist() == [2, 0, 1, 2, 0, 1]
        expected = [np.asarray(picture(n)).transpose(2, 0, 1) for n in range(6)]
        assert np.array_equal(found.images[:], np.stack(expected))
    assert load_dataset("test", table, checkpoint=MODEL).record.name == "labels"


def test_class_names_are_matched_by_name(pets: Path) -> None:
    table = pets / "labels.csv"
    table.write_text("path,label\n" + rows(["cat", "ant", "bee", "cat", "ant", "bee"]))
    assert load_dataset("test", table, checkpoint=MODEL).labels.tolist() == [2, 0, 1, 2, 0, 1]
    turned = checkpoint_of((3, 8, 8), 3, class_names=NAMES[::-1])
    found = load_dataset("test", table, checkpoint=turned)
    assert found.labels.tolist() == [0, 2, 1, 0, 2, 1]
    assert found.class_names == NAMES[::-1]
    table.write_text("path,label\n" + rows(["cat", "ant", "cat", "cat", "ant", "ant"]))
    with pytest.raises(DatasetError, match=r"2 classes \(ant, cat\), but the checkpoint has 3"):
        load_dataset("test", table, checkpoint=MODEL)
    with pytest.warns(ToolkitWarning, match="no test images of class bee"):
        found = load_dataset("test", table, checkpoint=turned)
    assert found.labels.tolist() == [0, 2, 0, 0, 2, 2]


def test_numbers_that_are_names_of_the_checkpoint_are_names(pets: Path) -> None:
    table = pets / "labels.csv"
    table.write_text("path,label\n" + rows([7, 5, 3, 7, 5, 3]))
    model = checkpoint_of((3, 8, 8), 3, class_names=("3", "5", "7"))
    assert load_dataset("test", table, checkpoint=model).labels.tolist() == [2, 1, 0, 2, 1, 0]


def test_a_column_or_the_name_of_the_table_tells_the_splits_apart(pets: Path) -> None:
    lines = [f"pictures/{n}.png,{n % 3},{'train' if n < 4 else 'val'}" for n in range(6)]
    table = pets / "labels.csv"
    table.write_text("path,label,split\n" + "\n".join(lines))
    train, test = (load_dataset(split, table, checkpoint=MODEL) for split in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 0], [1, 2])
    assert not {*train.record.sha256.values()} & {*test.record.sha256.values()}
    table.unlink()
    (pets / "train.csv").write_text("path,label\n" + rows([0, 1, 2, 0]))
    (pets / "test.csv").write_text("path,label\npictures/5.png,2\n")
    assert load_dataset("train", pets, checkpoint=MODEL).labels.tolist() == [0, 1, 2, 0]
    assert load_dataset("test", pets, checkpoint=MODEL).labels.tolist() == [2]
    (pets / "test.csv").unlink()
    with pytest.raises(DatasetError, match=r"no test images; found pictures/, train\.csv"):
        load_dataset("test", pets, checkpoint=MODEL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no rows"),
        ("path,label\n", "no test images"),
        ("a,b\n1,2\n", r"its first line is 'a, b', expected a heading"),
        ("path,label\npictures/0.png\n", r"line 2: 1 cells, expected at least 2"),
        ("path,label\npictures/0.png,\n", "line 2: expected a path and a label"),
        ("path,label\nnowhere.png,1\n", "cannot read .*nowhere.png: No such file"),
        ("path,label\n../other.png,1\n", "is outside its folder"),
        ("path,label\n/etc/passwd,1\n", "is outside its folder"),
        ("path,label\npictures/0.png,8\n", "has label 8, out of range"),
        ("path,label\npict\0ures/0.png,1\n", "zero character|not a table"),
        ('path,label\n"pictures/0.png,1\n', "1 cells|cannot read|not a table"),
    ],
)
def test_faults_of_a_table_are_named(pets: Path, text: str, words: str) -> None:
    table = pets / "labels.csv"
    table.write_text(text)
    with pytest.raises(DatasetError, match=words):
        load_dataset("test", table, checkpoint=MODEL)


def test_tables_that_are_no_text_or_several_are_refused(pets: Path) -> None:
    (pets / "a.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(DatasetError, match="not UTF-8 text"):
        load_dataset("test", pets / "a.csv", checkpoint=MODEL)
    (pets / "b.csv").write_text("path,label\n")
    with pytest.raises(DatasetError, match=r"several tables \(a\.csv, b\.csv\)"):
        load_dataset("test", pets, checkpoint=MODEL)


def test_another_table_beside_folders_of_classes_is_not_read(pets: Path) -> None:
    (pets / "notes.csv").write_text("author,year\nme,2020\n")
    found = load_dataset("test", pets, checkpoint=checkpoint_of((3, 8, 8), 1))
    assert found.class_names == ("pictures",)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_table_that_is_no_regular_file_is_refused(pets: Path, kind: str) -> None:
    put_irregular(pets / "labels.csv", kind)
    with pytest.raises(DatasetError, match=rf"{IRREGULAR[kind]}|no test images"):
        load_dataset("test", pets / "labels.csv", checkpoint=MODEL)
