"""Sums in order: the same value as PyTorch's up to rounding, and the rounding of a loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor, nn

from toolkit.artifacts.rounding.ordered_sums import OrderedSums
from toolkit.artifacts.rounding.torch_model import apply_variant

Function = Callable[[Tensor], Tensor]

SUMS: dict[str, Function] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean of all": lambda x: x.mean(),
    "mean, one axis kept": lambda x: x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum((0, 2)),
    "sum of all": lambda x: x.sum(),
    "sum, one axis": lambda x: x.sum(3),
    "global pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "var": lambda x: x.var((2, 3)),
    "biased var": lambda x: x.var((2, 3), unbiased=False, keepdim=True),
    "var of all": lambda x: x.var(),
    "std": lambda x: x.std(1),
    "std of all": lambda x: x.std(),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, (2, 3))),
    "std_mean": lambda x: torch.cat(torch.std_mean(x, 1, keepdim=True)),
    "layer norm": lambda x: F.layer_norm(x, [9, 40], torch.full((9, 40), 2.0)),
    "group norm": lambda x: F.group_norm(x, 2, torch.arange(4.0)),
    "instance norm": lambda x: F.instance_norm(x),
    "batch norm": lambda x: F.batch_norm(x, torch.ones(4), torch.full((4,), 3.0)),
    "rms norm": lambda x: F.rms_norm(x, [40]),
    "softmax": lambda x: x.softmax(3),
    "log softmax": lambda x: x.log_softmax(3),
    "logsumexp": lambda x: x.flatten(1).logsumexp(1),
    "norm": lambda x: x.flatten(2).norm(dim=2),
    "cumsum": lambda x: x.cumsum(3),
    "einsum": lambda x: torch.einsum("nchw->nc", x),
    "normalize": lambda x: F.normalize(x, dim=3),
}


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function's value."""
        return self.function(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", SUMS)
def test_value_is_that_of_pytorch(name: str, mode: Callable[[], object]) -> None:
    inputs = torch.rand(3, 4, 9, 40, generator=torch.Generator().manual_seed(0))
    with mode():  # type: ignore[attr-defined]
        expected = SUMS[name](inputs)
        found = OrderedSums(Module(SUMS[name]))(inputs)
    torch.testing.assert_close(found, expected, rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUMS)
def test_every_kind_of_sum_is_ordered(name: str) -> None:
    """Of one large and many small terms, a loop that begins with the large one loses the rest."""
    inputs = torch.full((3, 4, 9, 40), 1e-9)
    inputs[:, :, 0, 0], inputs[:, 0, :, :] = 1, 1
    inputs += torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    with torch.inference_mode():
        usual = SUMS[name](inputs)
        found = apply_variant(Module(SUMS[name]), "sums:ordered")(inputs)
    assert not torch.equal(found, usual)


def test_terms_are_added_one_after_the_other() -> None:
    inputs = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0))
    total = np.zeros(2, np.float32)
    for column in inputs.numpy().T:
        total += column
    assert OrderedSums(Module(lambda x: x.sum(1)))(inputs).tolist() == total.tolist()
    assert OrderedSums(Module(lambda x: x.mean(1)))(inputs).tolist() == (total / 1000).tolist()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(1, dtype=torch.float64),
        lambda x: (x > 0.5).sum(1),
        lambda x: x.double().mean(),
        lambda x: x[:, :0].sum(1),
        lambda x: x.argmax(1),
    ],
)
def test_other_operations_are_unchanged(function: Function) -> None:
    inputs = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0))
    found, expected = OrderedSums(Module(function))(inputs), function(inputs)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_number_without_axes_is_its_own_sum() -> None:
    assert OrderedSums(Module(lambda x: x.sum()))(torch.tensor(2.5)).item() == 2.5
