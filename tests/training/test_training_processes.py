"""Several processes train one model: they average their gradients, and one writes and prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE_S

from toolkit.training.train import train

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
    """Start two processes on this machine, on a free port."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [*start, *map(str, command)]


@pytest.mark.slow
def test_processes_average_their_gradients(tmp_path: Path) -> None:
    """All processes get the weights of one process that has the whole batch."""
    script = tmp_path / "averaging.py"
    script.write_text(AVERAGING)
    for start in ([sys.executable, str(script)], torchrun(script)):
        subprocess.run(
            [*start, str(tmp_path / "w")], check=True, capture_output=True, timeout=PATIENCE_S
        )
    names = ("w-0-of-1.pt", "w-0-of-2.pt", "w-1-of-2.pt")
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in names)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value)
        assert torch.equal(first[name], second[name])


@pytest.mark.usefixtures("no_child_is_left")
@pytest.mark.slow
def test_two_processes_train_one_model(small_data: Path, tmp_path: Path) -> None:
    def command(out: Path, *more: object) -> list[str]:
        options = ("--data", small_data, "--epochs", 3, "--threads", 1, "--out", out, "--json")
        return [str(each) for each in ("train", *options, *more)]

    together = subprocess.run(
        torchrun("-m", "toolkit", *command(tmp_path / "two")),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    record = json.loads(together.stdout)  # from one process only
    assert record["training"]["options"]["processes"] == 2
    assert together.stderr.count("epoch 1: 6/6") == 1
    alone = train(out=tmp_path / "one", data=small_data, epochs=3, threads=1)
    assert alone.training is not None
    assert record["training"]["accuracy"] == pytest.approx(alone.training.accuracy, abs=0.05)
    assert record["sha256"] != alone.sha256
    again = subprocess.run(
        torchrun("-m", "toolkit", *command(tmp_path / "two")),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert again.returncode != 0
    assert "already holds a checkpoint" in again.stderr
