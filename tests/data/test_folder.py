"""Folders of pictures: splits, classes, and what lies beside them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_of, picture, put_pictures

from toolkit.data import Dataset, load_dataset
from toolkit.errors import DatasetError, ToolkitWarning

NAMES = ("ant", "bee", "cat", "dog")
MODEL = checkpoint_of((3, 8, 8), 4)
NAMED = checkpoint_of((3, 8, 8), 4, class_names=NAMES)


@contextmanager
def said() -> Iterator[list[str]]:
    """The texts of the toolkit's warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ToolkitWarning)
        yield texts
    texts += [str(each.message) for each in found]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two pictures of each class in both splits."""
    folder = tmp_path / "pets"
    for at, split in enumerate(("train", "test")):
        for number, name in enumerate(NAMES):
            some = [picture(100 * at + 10 * number + n) for n in range(2)]
            put_pictures(folder / split, {name: some})
    return folder


def labels_of(found: Dataset) -> list[int]:
    return [int(each) for each in found.labels]


def test_classes_are_numbered_in_the_order_of_their_names(pets: Path) -> None:
    found = load_dataset("test", pets)
    assert (found.class_names, found.classes) == (NAMES, 4)
    assert labels_of(found) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("stray", [".ipynb_checkpoints", "__MACOSX", "__pycache__", ".git"])
@pytest.mark.parametrize("inside", [True, False])
def test_stray_folders_are_skipped_and_said(pets: Path, stray: str, inside: bool) -> None:
    before = load_dataset("test", pets, checkpoint=MODEL)
    for split in ("train", "test"):
        place = pets / split / stray
        place.mkdir()
        if inside:
            picture(99).save(place / "copy.png")
    with said() as texts:
        found = load_dataset("test", pets, checkpoint=MODEL)
    assert labels_of(found) == labels_of(before)
    assert np.array_equal(found.images[:], before.images[:])
    assert any(f"skipped folder {stray}" in text for text in texts)
    assert any(stray in note for note in found.record.notes)


def test_hidden_files_and_folders_in_a_class_are_skipped_and_said(pets: Path) -> None:
    (pets / "test" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7")
    inner = pets / "test" / "bee" / ".ipynb_checkpoints"
    inner.mkdir()
    picture(0).save(inner / "copy.png")
    (pets / "test" / "bee" / "raw.heic").write_bytes(b"x")
    with said() as texts:
        assert len(load_dataset("test", pets)) == 8
    (text,) = texts
    for words in ("hidden files", "folder .ipynb_checkpoints", "ending in .heic, which cannot be"):
        assert words in text


def test_a_class_without_test_images_is_a_warning_with_its_name(pets: Path) -> None:
    shutil.rmtree(pets / "test" / "bee")
    for model in (MODEL, NAMED, None):
        with said() as texts:
            found = load_dataset("test", pets, checkpoint=model)
        assert labels_of(found) == [0, 0, 2, 2, 3, 3]
        assert texts == ["no test images of class bee"]


def test_a_class_that_is_nowhere_never_moves_the_others(pets: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(pets / split / "bee")
    with pytest.raises(
        DatasetError, match=r"3 classes \(ant, cat, dog\), but the checkpoint has 4"
    ):
        load_dataset("test", pets, checkpoint=MODEL)
    with said() as texts:
        found = load_dataset("test", pets, checkpoint=NAMED)
    assert labels_of(found) == [0, 0, 2, 2, 3, 3]
    assert texts == ["no test images of class bee"]
    (pets / "train" / "bee").mkdir()  # a folder for it is enough
    with said():
        assert labels_of(load_dataset("test", pets, checkpoint=MODEL)) == [0, 0, 2, 2, 3, 3]


def test_a_folder_that_is_no_class_of_the_checkpoint_is_skipped_and_said(pets: Path) -> None:
    put_pictures(pets / "test", {"box": [picture(1)]})
    with said() as texts:
        found = load_dataset("test", pets, checkpoint=NAMED)
    assert labels_of(found) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert any("skipped box: not among the checkpoint's classes" in text for text in texts)


def test_labels_follow_the_order_of_the_checkpoint(pets: Path) -> None:
    model = checkpoint_of((3, 8, 8), 4, class_names=NAMES[::-1])
    found = load_dataset("test", pets, checkpoint=model)
    by_name = {name: load_dataset("test", pets).images[:][2 * n] for n, name in enumerate(NAMES)}
    for image, label in zip(found.images[:][::2], found.labels[::2], strict=True):
        assert np.array_equal(image, by_name[model.class_names[label]])


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test"])
def test_test_images_alone_are_enough(pets: Path, name: str) -> None:
    shutil.rmtree(pets / "train")
    (pets / "test").rename(pets / name)
    found = load_dataset("test", pets, checkpoint=MODEL)
    assert labels_of(found) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.record.split == "test"
    with pytest.raises(DatasetError, match=rf"no train images; found {name}/\. --data takes"):
        load_dataset("train", pets, checkpoint=MODEL)


def test_test_is_preferred_to_val(pets: Path) -> None:
    shutil.copytree(pets / "test", pets / "val")
    picture(77).save(pets / "val" / "ant" / "2.png")
    assert len(load_dataset("test", pets)) == 8


def test_a_folder_without_splits_is_read_for_either(pets: Path) -> None:
    flat = pets / "train"
    train, test = (load_dataset(split, flat, checkpoint=MODEL) for split in ("train", "test"))
    assert labels_of(test) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert train.record.sha256 == test.record.sha256  # so that nobody verifies on what was used


def test_a_folder_of_data_sets_is_not_one_of_classes(pets: Path) -> None:
    with pytest.raises(DatasetError, match=r"no test images; found pets/"):
        load_dataset("test", pets.parent)


def test_the_checksum_depends_on_the_labels(pets: Path) -> None:
    other = checkpoint_of((3, 8, 8), 4, class_names=NAMES[::-1])
    first = load_dataset("test", pets, checkpoint=NAMED).record.sha256
    assert load_dataset("test", pets, checkpoint=MODEL).record.sha256 == first
    assert load_dataset("test", pets, checkpoint=other).record.sha256 != first


def test_notes_name_no_folder_above_the_data(pets: Path) -> None:
    (pets / "test" / ".git").mkdir()
    with said() as texts:
        notes = load_dataset("test", pets).record.notes
    assert str(pets / "test") in texts[0]
    assert "pets/test: skipped folder .git" in notes
    assert not any(str(pets.parent) in note for note in notes)


def test_a_hidden_folder_of_pictures_is_no_data_set(tmp_path: Path) -> None:
    put_pictures(tmp_path, {".thumbnails": [picture(0)]})
    with pytest.raises(DatasetError, match=r"no test images; found \.thumbnails/"):
        load_dataset("test", tmp_path)
