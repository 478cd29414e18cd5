"""The output of a model: one of several, or one logit → logits `[N,K]`.

In: a model as its author wrote it, and the model spec. Out: a module that returns logits `[N,K]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from toolkit.schema import ModelSpec


class ChosenOutput(nn.Module):
    """A model with one output, chosen from several, or with two logits made of one."""

    def __init__(self, model: nn.Module, *, output: str | int | None, one_logit: bool) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.one_logit = one_logit

    def forward(self, input: Tensor) -> Tensor:
        """Float32 `[N,...]` → logits `[N,K]`."""
        logits: Tensor = pick(self.model(input), self.output)
        return two_logits(logits) if self.one_logit else logits


def with_chosen_output(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the model with the output that `spec` chooses; the model itself if it has only one."""
    if spec.output is None and not spec.one_logit:
        return model
    return ChosenOutput(model, output=spec.output, one_logit=spec.one_logit)


def without_chosen_output(model: nn.Module) -> nn.Module:
    """Return the model as its author wrote it, whose weights have the author's names."""
    return model.model if isinstance(model, ChosenOutput) else model


def two_logits(logit: Tensor) -> Tensor:
    """Return logits `[0, z]` for one logit `z` per sample: `[N,1]` or `[N]` → `[N,2]`.

    The softmax of `[0, z]` is the sigmoid of `z`.
    """
    column = logit if logit.dim() == 2 else logit.unsqueeze(1)
    return torch.cat((torch.zeros_like(column), column), 1)


def pick(found: object, output: str | int | None) -> Tensor:
    """Return one of the outputs of a model: an entry of a tuple or a dictionary, or an attribute.

    Raises:
        LookupError: It has no such output.
        AttributeError: It has no such output.
    """
    if output is None:
        return found  # type: ignore[return-value] # whoever calls it checks
    if isinstance(output, str):
        named: Tensor = found[output] if isinstance(found, dict) else getattr(found, output)
        return named
    numbered: Tensor = [value for _, value in outputs_of(found)][output]  # type: ignore[assignment]
    return numbered


def outputs_of(found: object) -> Iterator[tuple[str | int, object]]:
    """Return the names or positions of a model's outputs, and the outputs."""
    if isinstance(found, dict):
        yield from ((str(name), value) for name, value in found.items())
    elif is_dataclass(found):
        yield from ((each.name, getattr(found, each.name)) for each in fields(found))
    elif isinstance(found, tuple | list):
        yield from enumerate(found)
