"""Feeds: all three deliver the same normalised images with their labels."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_idx, write_images

from toolkit.data import Dataset, load_dataset
from toolkit.data.images import MappedImages
from toolkit.data.preprocessing import normalise
from toolkit.errors import SettingError
from toolkit.schema import InputSpec
from toolkit.training.feed import OneByOne, Resident, Streamed, make_feed
from toolkit.training.recipe import find_recipe

BATCHES = [torch.tensor([0, 3, 8]), torch.tensor([1, 2]), torch.tensor([11])]


@pytest.fixture(params=[1, 3, 5], ids="{}-channels".format)
def mapped(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Twelve images in an uncompressed file."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (12, request.param, 9, 7), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx4-ubyte", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(12, dtype=np.uint8) % 3)
    return load_dataset("train", tmp_path)


@pytest.mark.parametrize(
    "feed",
    [
        pytest.param(Resident, id="resident"),
        pytest.param(Streamed, id="streamed"),
        pytest.param(OneByOne, id="one by one"),
        pytest.param(partial(OneByOne, workers=2), id="by workers", marks=pytest.mark.slow),
    ],
)
def test_batches_contain_the_normalised_rows(mapped: Dataset, feed: type[Resident]) -> None:
    channels = mapped.images.shape[1]
    spec = InputSpec(
        shape=(channels, 9, 7),
        mean=tuple(0.1 * (n + 1) for n in range(channels)),
        std=tuple(0.3 + n for n in range(channels)),
    )
    found = list(feed(mapped, spec, "cpu")(BATCHES))
    assert len(found) == len(BATCHES)
    for rows, (images, labels) in zip(BATCHES, found, strict=True):
        wanted = normalise(mapped.images[rows.numpy()], spec)
        np.testing.assert_array_equal(images.numpy(), wanted)
        assert labels.tolist() == [row % 3 for row in rows.tolist()]
        assert labels.dtype == torch.int64


def test_small_data_is_resident_and_files_are_streamed(mapped: Dataset, tmp_path: Path) -> None:
    spec = InputSpec(shape=(1, 28, 28), mean=(0.1,), std=(0.3,))
    assert isinstance(mapped.images, MappedImages)
    assert isinstance(make_feed(mapped, spec, "cpu"), Resident)
    write_images(tmp_path / "files", np.zeros((4, 1, 8, 8), np.uint8), [0, 1, 0, 1])
    files = load_dataset("train", tmp_path / "files")
    assert isinstance(make_feed(files, spec, "cpu"), Streamed)
    assert isinstance(make_feed(files, spec, "cpu", find_recipe("plain")), OneByOne)
    huge = Dataset(
        images=MappedImages(tmp_path / "none", 16, (2_000_000, 1, 28, 28)),
        labels=np.zeros(2_000_000, np.int64),
        record=mapped.record,
    )
    assert isinstance(make_feed(huge, spec, "cpu"), Streamed)


def test_temporary_folder_whose_name_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the processes that read images would wait forever."""
    write_images(tmp_path / "files", np.zeros((4, 1, 8, 8), np.uint8), [0, 1, 0, 1])
    files = load_dataset("train", tmp_path / "files")
    spec = InputSpec(shape=(1, 8, 8), mean=(0.1,), std=(0.3,))
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 70)
    assert isinstance(make_feed(files, spec, "cpu"), Streamed)
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 71)
    with pytest.raises(SettingError, match=r"name of 72 bytes.*set TMPDIR to a shorter path"):
        make_feed(files, spec, "cpu")
    assert isinstance(make_feed(files, spec, "cpu", find_recipe("plain")), OneByOne)
