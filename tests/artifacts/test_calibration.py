"""Calibration images are drawn from the training set by seed; a test set with the same images is
refused."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINT

from toolkit.artifacts.calibration import CalibrationSettings, draw, refuse_overlap
from toolkit.artifacts.export import export
from toolkit.checkpoints.storage import read_checkpoint
from toolkit.data import MNIST, load_dataset
from toolkit.errors import DatasetError, SettingError, ToolkitWarning
from toolkit.sessions.candidates import Subject

RECORD = read_checkpoint(CHECKPOINT)


def test_calibration_images_are_distinct_training_images_and_recorded() -> None:
    images, record = draw(CalibrationSettings(images=50, seed=3), RECORD)
    training = load_dataset("train")
    assert images.shape == (50, 1, 28, 28)
    assert images.dtype == np.uint8
    assert (record.dataset, record.images, record.seed) == (training.record, 50, 3)
    indices = np.sort(np.random.default_rng(3).choice(60_000, 50, replace=False))
    np.testing.assert_array_equal(images, training.images[indices])
    text = ",".join(str(each) for each in indices)
    assert record.indices_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len(set(indices)) == 50


def test_another_seed_draws_other_images() -> None:
    _, one = draw(CalibrationSettings(images=50, seed=0), RECORD)
    _, other = draw(CalibrationSettings(images=50, seed=1), RECORD)
    assert one.indices_sha256 != other.indices_sha256


@pytest.mark.parametrize("images", [0, -5])
def test_number_of_images_below_one_is_refused(images: int) -> None:
    with pytest.raises(SettingError, match="--calibration-images"):
        CalibrationSettings(images=images)


def test_fewer_images_than_wanted_are_all_used_with_a_warning(small_data: Path) -> None:
    wanted = CalibrationSettings(images=601, data=small_data)
    with pytest.warns(ToolkitWarning, match=r"601: the training set .* has only 600 images; all"):
        inputs, record = draw(wanted, RECORD)
    assert (len(inputs), record.images) == (600, 600)
    every = load_dataset("train", small_data).images[:]
    np.testing.assert_array_equal(inputs, every)


def without_training_images(small_data: Path, folder: Path) -> CalibrationSettings:
    folder.mkdir()
    for path in small_data.glob("t10k-*"):
        shutil.copy(path, folder)
    return CalibrationSettings(images=50, data=folder)


def test_fp32_is_written_if_the_images_for_int8_are_missing(
    small_data: Path, tmp_path: Path
) -> None:
    done = export(
        CHECKPOINT,
        out=tmp_path / "out",
        formats=["onnx"],
        precisions=["fp32", "int8"],
        calibration=without_training_images(small_data, tmp_path / "test-only"),
    )
    assert [each.precision for each in done.artifacts] == ["fp32"]
    assert (tmp_path / "out" / "mnist-cnn.onnx").exists()
    (lost,) = done.failures
    assert (lost.format, lost.precision, lost.failure.status) == ("onnx", "int8", "unsupported")
    assert "int8 ranges are measured on training images" in lost.failure.reason
    assert "expected one file named *train*" in lost.failure.reason


def test_int8_alone_without_training_images_is_refused_at_once(
    small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"expected one file named \*train\*"):
        export(
            CHECKPOINT,
            out=tmp_path / "out",
            formats=["onnx"],
            precisions=["int8"],
            calibration=without_training_images(small_data, tmp_path / "test-only"),
        )
    assert not (tmp_path / "out").exists()


def test_calibration_images_are_refused_as_test_set(subject: Subject, tmp_path: Path) -> None:
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        (path,) = MNIST.glob(f"train-{name}*")
        shutil.copy(path, tmp_path / path.name.replace("train-", "test-"))
    _, record = draw(CalibrationSettings(images=50), RECORD)
    artifact = replace(subject.artifacts[0].record, precision="int8", calibration=record)
    refuse_overlap([artifact], load_dataset("test"))
    with pytest.raises(DatasetError, match=r"was calibrated on 50 images of the same files"):
        refuse_overlap([artifact], load_dataset("test", tmp_path))
