"""Training: the options have their documented effect, and the same seed gives the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, write_idx, write_images

from toolkit.checkpoints.storage import load_model
from toolkit.data import load_dataset
from toolkit.errors import DatasetError, OutputError, SettingError
from toolkit.training.train import evaluate, train


def test_one_epoch_on_real_digits_learns(tmp_path: Path) -> None:
    checkpoint = train(out=tmp_path / "ck", epochs=1, limit=6000)
    assert checkpoint.training is not None
    assert checkpoint.training.accuracy > 0.9
    model, record = load_model(tmp_path / "ck")
    test = load_dataset("test")
    assert evaluate(model, test, record.input, "cpu") == checkpoint.training.accuracy
    assert (record.input.mean, record.input.std) == ((0.1307,), (0.3081,))
    assert record.training is not None
    assert record.training.dataset.images == 6000


@pytest.mark.parametrize("recipe", ["fast", "plain"])
def test_same_seed_gives_the_same_weights_and_another_does_not(
    small_data: Path, tmp_path: Path, recipe: str
) -> None:
    def sha256(seed: int, name: str, augment: bool = False) -> str:
        return train(
            out=tmp_path / name, data=small_data, recipe=recipe, epochs=1, seed=seed,
            augment=augment,
        ).sha256  # fmt: skip

    assert sha256(3, "a") == sha256(3, "b")
    assert sha256(3, "c", augment=True) == sha256(3, "d", augment=True)
    assert len({sha256(3, "e"), sha256(4, "f"), sha256(3, "g", augment=True)}) == 3


def test_training_does_not_change_the_callers_random_state(
    small_data: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    train(out=tmp_path / "ck", data=small_data, epochs=1)
    assert torch.equal(torch.rand(1), wanted)


def test_progress_reports_loss_and_speed(small_data: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    train(
        out=tmp_path / "ck",
        data=small_data,
        epochs=2,
        batch_size=256,
        progress=lambda label, done, total, note="": told.append((label, done, total, note)),
    )
    assert [item[:3] for item in told if item[0] == "epoch 1"][-1] == ("epoch 1", 3, 3)
    assert told[0][:3] == ("epochs", 0, 2)
    assert "loss " in told[1][3]
    assert "images/s" in told[1][3]
    assert told[-1][:3] == ("epochs", 2, 2)
    assert "test accuracy" in told[-1][3]


def test_command_records_its_options(cli: Cli, small_data: Path, tmp_path: Path) -> None:
    result = cli(
        *("train", "--data", small_data, "--out", tmp_path / "ck", "--epochs", 1, "--lr", 0.002),
        *("--batch-size", 50, "--seed", 9, "--threads", 1, "--device", "cpu", "--json"),
    )
    record = json.loads(result.stdout)
    assert result.exit_code == 0
    assert record == {
        "path": str(tmp_path / "ck"),
        **json.loads((tmp_path / "ck" / "checkpoint.json").read_text()),
    }
    assert record["training"]["options"] == {
        "recipe": "fast",
        "epochs": 1,
        "batch_size": 50,
        "lr": 0.002,
        "seed": 9,
        "augment": False,
        "device": "cpu",
        "threads": 1,
        "processes": 1,
    }
    assert record["versions"]["torch"]


def test_names_of_folders_are_the_class_names_of_the_checkpoint(
    small_data: Path, tmp_path: Path
) -> None:
    digits = load_dataset("train", small_data)
    pixels = np.asarray(digits.images[:20])
    folder = write_images(tmp_path / "pictures", pixels, [n % 3 for n in range(20)])
    found = train(out=tmp_path / "ck", data=folder, epochs=1, device="cpu", threads=1)
    assert found.class_names == ("class 0", "class 1", "class 2")
    assert found.training is not None
    (note,) = found.training.dataset.notes
    assert note.startswith("pictures are read as L")


def test_a_data_set_without_splits_is_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pictures", np.zeros((6, 1, 8, 8), np.uint8), [0, 1] * 3)
    with pytest.raises(DatasetError, match=r"train has no splits.*put them into train/ and test/"):
        train(out=tmp_path / "ck", data=folder / "train")


def test_existing_checkpoint_is_refused_before_training(own_checkpoint: Path) -> None:
    before = (own_checkpoint / "weights.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        train(out=own_checkpoint)
    assert (own_checkpoint / "weights.safetensors").read_bytes() == before


def test_infinite_loss_stops_training_with_advice(small_data: Path, tmp_path: Path) -> None:
    wanted = r"step \d+ of 6 of epoch \d+, at a learning rate of \S+; try --lr 1e\+29"
    with pytest.raises(SettingError, match=wanted):
        train(out=tmp_path / "ck", data=small_data, epochs=3, lr=1e30)
    assert not (tmp_path / "ck" / "checkpoint.json").exists()


def test_fractional_epoch_ends_early(small_data: Path, tmp_path: Path) -> None:
    checkpoint = train(out=tmp_path / "ck", data=small_data, epochs=1.5)
    assert checkpoint.training is not None
    assert [epoch.number for epoch in checkpoint.training.epochs] == [1, 2]
    assert checkpoint.training.options["epochs"] == 1.5


@pytest.mark.slow
def test_training_on_a_folder_of_images(tmp_path: Path) -> None:
    digits = load_dataset("train").head(120)
    write_images(tmp_path / "pictures", digits.images[:], digits.labels.tolist())
    found = train(out=tmp_path / "ck", data=tmp_path / "pictures", epochs=2, batch_size=40)
    assert found.training is not None
    assert found.training.dataset.name == "pictures"
    assert found.training.accuracy > 0.2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="finds no CUDA device"):
        train(out=tmp_path / "ck", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_runs_on_cuda(small_data: Path, tmp_path: Path) -> None:
    checkpoint = train(out=tmp_path / "ck", data=small_data, epochs=1)
    assert checkpoint.training is not None
    assert checkpoint.training.options["device"] == "cuda"


def test_shape_classes_and_statistics_come_from_the_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "colours"
    folder.mkdir()
    for split in ("train", "test"):
        labels = np.arange(60, dtype=np.uint8) % 3
        images = random.integers(0, 40, (60, 3, 12, 16), dtype=np.uint8)
        images[np.arange(60), labels] += 200  # the class is the bright channel
        write_idx(folder / f"{split}-images-idx4-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)
    checkpoint = train(out=tmp_path / "ck", data=folder, epochs=8, batch_size=10)
    assert checkpoint.training is not None
    assert (checkpoint.input.shape, checkpoint.classes) == ((3, 12, 16), 3)
    pixels = load_dataset("train", folder).images[:] / 255
    np.testing.assert_allclose(checkpoint.input.mean, pixels.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(checkpoint.input.std, pixels.std((0, 2, 3)), atol=1e-4)
    assert checkpoint.training.accuracy > 0.9


def test_images_too_small_for_the_model_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for split in ("train", "test"):
        write_idx(folder / f"{split}-images-idx3-ubyte", np.zeros((4, 5, 5), np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.zeros(4, np.uint8))
    with pytest.raises(DatasetError, match="at least 6x6 pixels"):
        train(out=tmp_path / "ck", data=folder)
