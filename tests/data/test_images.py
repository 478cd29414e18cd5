"""Images that are read on access: mapped files, and folders of image files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import write_idx, write_images
from hostile import IRREGULAR, put_irregular
from PIL import Image

from toolkit.data import load_dataset
from toolkit.data.images import ImageFiles, MappedImages
from toolkit.data.statistics import mean_and_std
from toolkit.errors import DatasetError


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_of_images_is_read_as_a_data_set(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, 9, 7), dtype=np.uint8)
    folder = write_images(tmp_path / "pictures", pixels, [0, 1, 2, 0, 1, 2])
    found = load_dataset("test", folder)
    assert isinstance(found.images, ImageFiles)
    assert (found.images.shape, found.classes) == ((6, channels, 9, 7), 3)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    in_order = pixels[[0, 3, 1, 4, 2, 5]]
    np.testing.assert_array_equal(found.images[:], in_order)
    np.testing.assert_array_equal(found.images[np.array([5, 0])], in_order[[5, 0]])
    np.testing.assert_array_equal(found.images[3], in_order[3])
    assert (found.record.name, found.record.images) == ("pictures", 6)
    np.testing.assert_array_equal(np.concatenate(list(found.chunks(4))), in_order)
    np.testing.assert_array_equal(found.head(2).images, in_order[:2])


def test_the_record_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    pixels = np.zeros((4, 1, 8, 8), np.uint8)
    folder = write_images(tmp_path / "a", pixels, [0, 0, 1, 1])
    before = load_dataset("train", folder).record.sha256
    assert load_dataset("train", folder).record.sha256 == before
    (folder / "train" / "class 0" / "0000.png").rename(folder / "train" / "class 0" / "new.png")
    assert load_dataset("train", folder).record.sha256 != before


def test_faults_of_an_image_folder_are_reported(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    (folder / "train" / "class 0" / "notes.txt").write_text("not an image")
    assert len(load_dataset("train", folder)) == 2
    odd = folder / "test" / "class 0" / "odd.png"
    write_images(tmp_path / "b", np.zeros((1, 1, 5, 4), np.uint8), [0])
    odd.write_bytes((tmp_path / "b" / "test" / "class 0" / "0000.png").read_bytes())
    with pytest.raises(DatasetError, match=r"0000.png is 8x8, .*odd.png is 5x4 .* --resize"):
        load_dataset("test", folder)
    odd.write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=r"odd.png: not an image file"):
        load_dataset("test", folder)
    whole = (folder / "test" / "class 1" / "0001.png").read_bytes()
    odd.write_bytes(whole[:-25])
    with pytest.raises(DatasetError, match=r"odd.png: cannot be read"):
        load_dataset("test", folder)
    odd.parent.rename(folder / "test" / "class 7")
    with pytest.raises(DatasetError, match=r"class 7: no class of that name .* class 0, class 1"):
        load_dataset("test", folder)
    for path in (folder / "train" / "class 1").rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"class 1: a class without pictures"):
        load_dataset("train", folder)


def test_a_file_that_changes_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    images = load_dataset("test", folder).images
    Image.new("L", (4, 5)).save(folder / "test" / "class 0" / "0000.png")
    with pytest.raises(DatasetError, match=r"0000.png: is 4x5 pixels, but others .* 8x8; resize"):
        images[:]


def test_mapped_file_is_pickled_by_its_path(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(300, np.uint8))
    images = load_dataset("train", tmp_path).images
    assert isinstance(images, MappedImages)
    images[:2]
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[:], pixels[:, None])  # noqa: S301 - our own


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, [[[[90]], [[256]]]], (12_345, 2, 4, 3)).astype(np.uint8)
    pixels[:, 1, 0] = 7
    mean, std = mean_and_std(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), atol=6e-5)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), atol=6e-5)
    assert mean_and_std(np.full((3, 1, 2, 2), 255, np.uint8)) == ((1.0,), (1.0,))
    odd = np.array([0, 0, 255], np.uint8).reshape(1, 1, 1, 3)  # values are counted in pairs
    assert mean_and_std(odd) == ((0.3333,), (0.4714,))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_an_image_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    put_irregular(folder / "test" / "class 0" / "0000.png", kind)
    with pytest.raises(DatasetError, match=rf"0000\.png: .*{IRREGULAR[kind]}"):
        load_dataset("test", folder)


@pytest.mark.timeout(600)
def test_a_mapped_file_that_became_a_fifo_is_not_read(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "file", np.zeros((2, 8, 8), np.uint8))
    images = MappedImages(path, 16, (2, 1, 8, 8))
    put_irregular(path, "a FIFO")
    with pytest.raises(OSError, match="it is a FIFO"):
        images[0]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    (folder / "test" / "class 0" / "more.png").symlink_to("nowhere")
    with pytest.raises(DatasetError, match=r"more\.png: cannot be read .*No such file"):
        load_dataset("test", folder)


def test_a_name_that_is_not_text_is_allowed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    old = folder / "test" / "class 0" / "0000.png"
    old.rename(old.with_name(os.fsdecode(b"\xff.png")))
    assert load_dataset("test", folder).images[:].shape == (2, 1, 8, 8)


def test_postscript_under_the_name_of_an_image_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow starts Ghostscript for it."""
    folder = write_images(tmp_path / "a", np.zeros((2, 1, 8, 8), np.uint8), [0, 1])
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho ran > {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    Image.new("RGB", (8, 8)).save(folder / "test" / "class 0" / "0000.png", "EPS")
    with pytest.raises(DatasetError, match=r"0000\.png: not an image file"):
        load_dataset("test", folder)
    assert not (tmp_path / "ran").exists()
