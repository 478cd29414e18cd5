"""Seeding gives the numbers of `torch.manual_seed`; the caller's generators are restored."""

from __future__ import annotations

import torch

from toolkit.training.generators import callers_generators_kept, seed_generators


def test_seeding_gives_the_numbers_of_manual_seed() -> None:
    for seed in (0, 7, 2**63 - 1):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        seed_generators("cpu", seed)
        assert torch.equal(torch.rand(5), expected)


def test_caller_generators_are_restored() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.rand(2)
    with callers_generators_kept("cpu"):
        seed_generators("cpu", 8)
        torch.rand(100)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
