"""FusedAdam gives the same bits as torch's Adam, and does not import torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.training.optimizers import FusedAdam

TRAINED_WITHOUT_COMPILER = """
import sys
import torch
from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.training.processes import Processes
from toolkit.training.step import make_step
step, _ = make_step(ReferenceCNN(), "cpu", 4, tuned=True, processes=Processes())
for _ in range(2):
    step(torch.rand(4, 1, 28, 28), torch.arange(4), lr=0.01)
sys.exit("torch._dynamo" in sys.modules)
"""


def test_fused_adam_is_bit_identical_to_torchs() -> None:
    torch.manual_seed(0)
    start = ReferenceCNN().eval()
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    ends = []
    for own in (True, False):
        model = ReferenceCNN().eval()
        model.load_state_dict(start.state_dict())
        model.to(memory_format=torch.channels_last)
        ours = FusedAdam(model.parameters(), recordable=False)
        theirs = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
        for number in range(4):
            lr = 0.01 / (number + 1)
            ours.set_lr(lr)
            theirs.param_groups[0]["lr"] = lr
            ours.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            if own:
                ours.step()
            else:
                theirs.step()
        ends.append((model.state_dict(), ours.kept() if own else theirs.state_dict()["state"]))
    (weights, kept), (expected, expected_kept) = ends
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    for number, row in expected_kept.items():
        assert kept[number].keys() == row.keys()
        for name, value in row.items():
            assert torch.equal(kept[number][name], value), (number, name)


def test_parameter_without_gradient_is_unchanged() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = FusedAdam([unused, used], recordable=False)
    optimizer.set_lr(0.1)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(3))
    assert not torch.equal(used, torch.ones(3))


def test_the_fast_step_does_not_import_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINED_WITHOUT_COMPILER], check=False)
    assert done.returncode == 0
