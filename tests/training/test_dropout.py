"""Byte dropout: the same distribution, gradient and eval mode as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.training.dropout import ByteDropout, with_cheap_dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropped_share_scale_and_independence(p: float, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ones = torch.ones(50, 64, 12, 12).to(memory_format=memory_format)
    found = ByteDropout(p)(ones)
    rounded = round(256 * p) / 256
    assert found.is_contiguous(memory_format=memory_format)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - rounded)])
    dropped = (found == 0).float()
    deviation = (rounded * (1 - rounded) / found.numel()) ** 0.5
    assert abs(dropped.mean() - rounded) < 5 * deviation
    centred = dropped - dropped.mean()
    for dimension in range(4):
        neighbours = (centred * centred.roll(1, dimension)).mean() / (rounded * (1 - rounded))
        assert abs(neighbours) < 5 / found.numel() ** 0.5


def test_gradient_follows_the_kept_values() -> None:
    values = torch.rand(7, 13, requires_grad=True)
    found = ByteDropout(0.5)(values)
    found.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, found == 0)
    assert values.grad.unique().tolist() == [0, 2]


def test_eval_mode_and_no_dropout_change_nothing() -> None:
    values = torch.rand(5, 3)
    assert ByteDropout(0.5).eval()(values) is values
    assert torch.equal(ByteDropout(0.0)(values), values)


def test_replacing_dropout_keeps_weights_and_outputs() -> None:
    model = ReferenceCNN().eval()
    names, images = list(model.state_dict()), torch.rand(2, 1, 28, 28)
    wanted = model(images)
    with_cheap_dropout(model)
    assert {type(module) for module in model.modules()} >= {ByteDropout}
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert list(model.state_dict()) == names
    assert torch.equal(model(images), wanted)
