"""An interrupted training continues exactly, and none of its state is lost or mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from benchmarks.kills import killed_and_resumed
from toolkit.errors import DatasetError, OutputError, SettingError
from toolkit.report.progress import Progress
from toolkit.training.state import read_state
from toolkit.training.train import train


class Killed(BaseException):
    """An exception that the training does not catch: the closest equivalent of SIGKILL within a
    process."""


def killed_after(steps: int) -> Progress:
    """Return a progress callback that ends the training after this many steps."""
    left = [steps]

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    return progress


def written_to(told: list[tuple[str, int]]) -> Progress:
    """Return a progress callback that records its calls."""

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        told.append((label, done))

    return progress


@pytest.fixture
def every_step_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report progress after each step, so that a training can be ended in any step."""
    monkeypatch.setattr("toolkit.training.log._EVERY_S", 0.0)


@pytest.mark.usefixtures("every_step_told")
@pytest.mark.parametrize("recipe", ["fast", pytest.param("plain", marks=pytest.mark.slow)])
@pytest.mark.parametrize("every_s", [1e-9, 3600], ids=["kept-each-step", "kept-at-the-start"])
def test_training_resumed_from_any_point_gives_the_same_weights(
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
        first_step = 3 * (int(label.split()[1]) - 1) + done
        assert first_step == kept.position.step + 1  # it did not start again
        assert (kept.position.step > 0) == (every_s < 1 and steps > 2)
        assert found.sha256 == wanted.sha256, steps
        assert found.training is not None
        assert [replace(each, images_per_s=0.0) for each in found.training.epochs] == [
            replace(each, images_per_s=0.0) for each in wanted.training.epochs
        ]
        assert {path.name for path in out.iterdir()} == {"checkpoint.json", "weights.safetensors"}


@pytest.mark.usefixtures("every_step_told")
def test_interrupted_training_state_is_neither_lost_nor_mixed(
    small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ck"
    with pytest.raises(Killed):
        train(out=out, data=small_data, epochs=2, seed=4, progress=killed_after(5))
    with pytest.raises(OutputError, match="continue it with --resume, start again with --force"):
        train(out=out, data=small_data, epochs=2, seed=4)
    with pytest.raises(OutputError, match=r"--seed 5 \(it had 4\)"):
        train(out=out, data=small_data, seed=5, resume=True)
    with pytest.raises(SettingError, match=r"--resume continues and --force starts again"):
        train(out=out, data=small_data, resume=True, force=True)
    with pytest.raises(
        DatasetError, match=r"--resume: the data differs from the data at the start"
    ):
        train(out=out, resume=True)
    found = train(out=out, data=small_data, resume=True)
    with pytest.raises(DatasetError, match=r"--resume: the data differs from .* \(train-images"):
        train(out=out, resume=True)
    assert found == train(out=out, data=small_data, resume=True)  # finished: nothing is done
    with pytest.raises(OutputError, match=r"--seed 5 \(it had 4\)"):
        train(out=out, data=small_data, seed=5, resume=True)
    assert train(out=out, data=small_data, epochs=1, force=True).sha256 != found.sha256


@pytest.mark.usefixtures("every_step_told")
def test_damaged_state_gives_one_line_on_stderr(cli: Cli, small_data: Path, tmp_path: Path) -> None:
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


def test_resume_without_a_state_starts_a_training(small_data: Path, tmp_path: Path) -> None:
    found = train(out=tmp_path / "new", data=small_data, epochs=1, resume=True)
    assert found.sha256 == train(out=tmp_path / "other", data=small_data, epochs=1).sha256


@pytest.mark.usefixtures("no_child_is_left")
@pytest.mark.slow
def test_training_survives_sigkill_at_random_times(small_data: Path, tmp_path: Path) -> None:
    """Real processes and a real signal; benchmarks/kills.py does this a hundred times."""
    options = ("--data", str(small_data), "--epochs", "4")
    wanted, found = killed_and_resumed(tmp_path, options, kills=2, seed=0)
    assert found == [wanted] * 2
