"""Training: the options do what they say, the same seed gives the same weights, and a training that
was killed goes on as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Cli, write_idx, write_images

from toolkit.checkpoint import load_model
from toolkit.data import load_dataset
from toolkit.errors import DatasetError, OutputError, SettingError
from toolkit.progress import Progress
from toolkit.training import evaluate, train
from toolkit.training.state import read_state


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


def test_training_leaves_the_callers_generator_alone(small_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    train(out=tmp_path / "ck", data=small_data, epochs=1)
    assert torch.equal(torch.rand(1), wanted)


def test_progress_tells_loss_and_speed(small_data: Path, tmp_path: Path) -> None:
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


def test_existing_checkpoint_is_refused_before_training(own_checkpoint: Path) -> None:
    before = (own_checkpoint / "weights.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        train(out=own_checkpoint)
    assert (own_checkpoint / "weights.safetensors").read_bytes() == before


def test_loss_that_explodes_stops_with_what_to_try(small_data: Path, tmp_path: Path) -> None:
    wanted = r"step \d+ of 6 of epoch \d+, at a learning rate of \S+; try --lr 1e\+29"
    with pytest.raises(SettingError, match=wanted):
        train(out=tmp_path / "ck", data=small_data, epochs=3, lr=1e30)
    assert not (tmp_path / "ck" / "checkpoint.json").exists()


def test_a_fraction_of_an_epoch_ends_within_it(small_data: Path, tmp_path: Path) -> None:
    checkpoint = train(out=tmp_path / "ck", data=small_data, epochs=1.5)
    assert checkpoint.training is not None
    assert [epoch.number for epoch in checkpoint.training.epochs] == [1, 2]
    assert checkpoint.training.options["epochs"] == 1.5


def test_a_folder_of_images_trains_as_well(tmp_path: Path) -> None:
    digits = load_dataset("train").head(120)
    write_images(tmp_path / "pictures", digits.images[:], digits.labels.tolist())
    found = train(out=tmp_path / "ck", data=tmp_path / "pictures", epochs=2, batch_size=40)
    assert found.training is not None
    assert found.training.dataset.name == "pictures"
    assert found.training.accuracy > 0.2


class Killed(BaseException):
    """Nothing in the training catches it: the next best thing to SIGKILL within a process."""


def killed_after(steps: int) -> Progress:
    """Progress that ends the training once so many steps were told, wherever that is."""
    left = [steps]

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    return progress


def written_to(told: list[tuple[str, int]]) -> Progress:
    """Progress that keeps what it is told."""

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        told.append((label, done))

    return progress


@pytest.fixture
def every_step_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after each step, so that a training may be ended in any."""
    monkeypatch.setattr("toolkit.training.diary._EVERY_S", 0.0)


@pytest.mark.usefixtures("every_step_told")
@pytest.mark.parametrize("recipe", ["fast", "plain"])
@pytest.mark.parametrize("every_s", [1e-9, 3600], ids=["kept-each-step", "kept-at-the-start"])
def test_a_training_ended_anywhere_goes_on_to_the_same_weights(
    small_data: Path, tmp_path: Path, recipe: str, every_s: float
) -> None:
    options: dict[str, Any] = {"recipe": recipe, "data": small_data, "batch_size": 200,
                               "epochs": 2.4, "augment": True, "threads": 1}  # fmt: skip
    wanted = train(out=tmp_path / "whole", **options)
    assert wanted.training is not None
    for steps in (2, 3, 5, 7, 9) if recipe == "fast" else (4, 6):
        out = tmp_path / f"killed-{steps}"
        with pytest.raises(Killed):
            train(out=out, save_every_s=every_s, progress=killed_after(steps), **options)
        kept = read_state(out)
        assert kept is not None
        told: list[tuple[str, int]] = []
        found = train(out=out, data=small_data, resume=True, progress=written_to(told))
        label, done = next(each for each in told if each[0] != "epochs")
        assert (
            3 * (int(label.split()[1]) - 1) + done == kept.position.step + 1
        )  # not from the start
        assert (kept.position.step > 0) == (every_s < 1 and steps > 2)
        assert found.sha256 == wanted.sha256, steps
        assert found.training is not None
        assert [replace(each, images_per_s=0.0) for each in found.training.epochs] == [
            replace(each, images_per_s=0.0) for each in wanted.training.epochs
        ]
        assert {path.name for path in out.iterdir()} == {"checkpoint.json", "weights.safetensors"}


@pytest.mark.usefixtures("every_step_told")
def test_what_an_interrupted_training_left_is_neither_lost_nor_mixed(
    small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ck"
    with pytest.raises(Killed):
        train(out=out, data=small_data, epochs=2, seed=4, progress=killed_after(5))
    with pytest.raises(OutputError, match="go on with it with --resume, start over with --force"):
        train(out=out, data=small_data, epochs=2, seed=4)
    with pytest.raises(OutputError, match=r"--seed 5 \(it had 4\)"):
        train(out=out, data=small_data, seed=5, resume=True)
    for more in ({}, {"force": True, "data": small_data}):
        with pytest.raises((DatasetError, SettingError), match=r"--resume: the data|--resume goes"):
            train(out=out, resume=True, **more)
    found = train(out=out, data=small_data, resume=True)
    with pytest.raises(DatasetError, match=r"--resume: the data is not what .* \(train-images"):
        train(out=out, resume=True)
    assert found == train(out=out, data=small_data, resume=True)  # finished: nothing is done
    with pytest.raises(OutputError, match=r"--seed 5 \(it had 4\)"):
        train(out=out, data=small_data, seed=5, resume=True)
    assert train(out=out, data=small_data, epochs=1, force=True).sha256 != found.sha256


@pytest.mark.usefixtures("every_step_told")
def test_a_damaged_state_is_one_line_on_stderr(cli: Cli, small_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "ck"
    options: dict[str, Any] = {"data": small_data, "epochs": 2, "threads": 1}
    with pytest.raises(Killed):
        train(out=out, save_every_s=1e-9, progress=killed_after(8), **options)
    max(out.glob("step-*")).write_bytes(b"nonsense")
    result = cli("train", "--resume", "--out", out, "--data", small_data, "--json")
    assert result.exit_code == 0
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "is damaged" in warnings[0]
    assert json.loads(result.stdout)["sha256"] == train(out=tmp_path / "whole", **options).sha256


def test_resume_where_nothing_was_begun_begins(small_data: Path, tmp_path: Path) -> None:
    found = train(out=tmp_path / "new", data=small_data, epochs=1, resume=True)
    assert found.sha256 == train(out=tmp_path / "other", data=small_data, epochs=1).sha256


@pytest.mark.usefixtures("no_child_is_left")
def test_sigkill_at_random_moments(small_data: Path, tmp_path: Path) -> None:
    """Real processes and a real signal; benchmarks/kills.py does it a hundred times."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from kills import killed_and_resumed

    wanted, found = killed_and_resumed(tmp_path, small_data, kills=3, seed=0)
    assert found == [wanted] * 3


AVERAGING = """
import sys
import torch
from torch import nn
from toolkit.training.processes import joined
from toolkit.training.step import make_step

with joined("cpu") as processes:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    step, _ = make_step(model, "cpu", 8, tuned=False, processes=processes)
    for _ in range(5):
        images, labels = torch.randn(8, 1, 2, 2), torch.randint(3, (8,))
        own = slice(processes.rank, None, processes.count)
        step(images[own], labels[own], lr=0.1)
    torch.save(model.state_dict(), f"{sys.argv[1]}-{processes.rank}-of-{processes.count}.pt")
"""


def torchrun(*command: object) -> list[str]:
    """Two processes on this machine, at a port that is free."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [*start, *map(str, command)]


def test_processes_average_their_gradients(tmp_path: Path) -> None:
    """So that all have the weights of one process that has the whole batch."""
    script = tmp_path / "averaging.py"
    script.write_text(AVERAGING)
    for start in ([sys.executable, str(script)], torchrun(script)):
        subprocess.run([*start, str(tmp_path / "w")], check=True, capture_output=True, timeout=300)
    names = ("w-0-of-1.pt", "w-0-of-2.pt", "w-1-of-2.pt")
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in names)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value)
        assert torch.equal(first[name], second[name])


@pytest.mark.usefixtures("no_child_is_left")
def test_two_processes_train_one_model(small_data: Path, tmp_path: Path) -> None:
    def command(out: Path, *more: object) -> list[str]:
        options = ("--data", small_data, "--epochs", 3, "--threads", 1, "--out", out, "--json")
        return [str(each) for each in ("train", *options, *more)]

    together = subprocess.run(
        torchrun("-m", "toolkit", *command(tmp_path / "two")),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    record = json.loads(together.stdout)  # of one process alone
    assert record["training"]["options"]["processes"] == 2
    assert together.stderr.count("epoch 1: 6/6") == 1
    alone = train(out=tmp_path / "one", data=small_data, epochs=3, threads=1)
    assert alone.training is not None
    assert record["training"]["accuracy"] == pytest.approx(alone.training.accuracy, abs=0.05)
    assert record["sha256"] != alone.sha256
    again = subprocess.run(
        torchrun("-m", "toolkit", *command(tmp_path / "two")),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode != 0
    assert "already holds a checkpoint" in again.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="finds no CUDA device"):
        train(out=tmp_path / "ck", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_where_there_is_one(small_data: Path, tmp_path: Path) -> None:
    checkpoint = train(out=tmp_path / "ck", data=small_data, epochs=1)
    assert checkpoint.training is not None
    assert checkpoint.training.options["device"] == "cuda"


def test_other_data_brings_its_own_shape_classes_and_statistics(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "colours"
    folder.mkdir()
    for split in ("train", "test"):
        labels = np.arange(60, dtype=np.uint8) % 3
        images = random.integers(0, 40, (60, 3, 12, 16), dtype=np.uint8)
        images[np.arange(60), labels] += 200  # the class is the channel that is bright
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
