"""Dropout with cheaper masks for the CPU: one random byte per value instead of a float."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ByteDropout(nn.Module):
    """`nn.Dropout` with `p` rounded to 1/256, and at most 255/256.

    `F.dropout` draws its mask one float at a time, in one thread.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self._dropped = min(255, round(256 * p))

    def forward(self, input: Tensor) -> Tensor:
        """Set a share `p` of the values to zero and scale the others up; in eval mode change
        nothing."""
        if not self.training:
            return input
        words = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.uint8)[: input.numel()]
        layout = torch.empty_like(input, device="meta").stride()
        kept = drawn.as_strided(input.size(), layout) >= self._dropped
        factors = kept.to(input.dtype).mul_(256 / (256 - self._dropped))
        output: Tensor = _Scaled.apply(input, factors)
        return output


class _Scaled(torch.autograd.Function):
    """`input * factors`, whose gradient has the memory layout of the input. A preceding max-pool
    takes three times as long if its gradient has another layout than its input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return input * factors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        gradient = torch.empty_like(factors).copy_(gradients[0])
        return gradient.mul_(factors), None


def with_cheap_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` in the model by a `ByteDropout`; it has no weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, ByteDropout(child.p).train(child.training))
