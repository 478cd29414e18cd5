"""A torch model with rounded weights: hypotheses about narrow number formats.

In: a model. Out: the same model with rounded weights, one format after another; at the end, the
weights are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounding:
    """One hypothesis: `what` is a clause, `apply` rounds a tensor; `all_tensors` includes
    biases."""

    kind: str
    what: str
    apply: Function
    all_tensors: bool


def roundings() -> Iterator[Rounding]:
    """Return roundings of the weights, with and without biases."""
    formats: list[tuple[str, str, Function]] = [
        (
            "fp16",
            "float16, or to TF32, which has as many bits",
            lambda w: w.to(torch.float16).to(w.dtype),
        ),
        ("bf16", "bfloat16", lambda w: w.to(torch.bfloat16).to(w.dtype)),
        ("TF32", "TF32", tf32),
        ("float8", "float8 (e4m3)", lambda w: w.to(torch.float8_e4m3fn).to(w.dtype)),
    ]
    for bits in (8, 4):
        for each, words in ((False, "tensor"), (True, "channel")):
            steps = partial(in_steps, bits=bits, per_channel=each)
            formats.append((f"{bits} bits", f"{bits} bits, one scale per {words}", steps))
    for kind, words, function in formats:
        for all_tensors in (False, True):
            yield Rounding(
                kind=f"weights rounded to {kind}",
                what=f"the weights{' and biases' * all_tensors} are rounded to {words}",
                apply=function,
                all_tensors=all_tensors,
            )


@contextmanager
def rounded(model: nn.Module, rounding: Rounding) -> Iterator[None]:
    """Round the weights of the model for the duration of the context."""
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for value in model.parameters():
            if value.is_floating_point() and (value.ndim > 1 or rounding.all_tensors):
                value.copy_(rounding.apply(value))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(kept[name])


def in_steps(values: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Round to symmetric steps: the largest magnitude is `2**(bits - 1) - 1` steps."""
    most = 2 ** (bits - 1) - 1
    axes = list(range(1, values.ndim)) if per_channel and values.ndim > 1 else None
    largest = values.abs().amax(axes, keepdim=True) if axes else values.abs().max()
    step = torch.where(largest > 0, largest / most, torch.ones_like(largest))
    return (values / step).round().clamp(-most, most) * step


def tf32(values: Tensor) -> Tensor:
    """Round to the nearest number with 10 bits of fraction, ties to even."""
    bits = values.float().contiguous().view(torch.int32)
    even = (bits >> 13) & 1
    return ((bits + 0xFFF + even) & -(1 << 13)).view(torch.float32).to(values.dtype)
