"""Adam: `torch.optim.Adam`, and a version that does not import torch's compiler.

In: parameters and their gradients. Out: the parameters, changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

_BETAS = (0.9, 0.999)
_EPS = 1e-8
Kept = dict[int, dict[str, Tensor]]
"""Index of a parameter → the optimizer's state for it, with the names of `torch.optim`."""


class Optimizer(Protocol):
    """The interface that a training step and a saved state need from an optimizer."""

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; a recorded CUDA graph reads it too."""

    def zero_grad(self) -> None:
        """Clear all gradients."""

    def step(self) -> None:
        """Update the parameters from their gradients."""

    def kept(self) -> Kept:
        """Return the state of each parameter, not copied; empty before the first step."""

    def put(self, kept: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Restore the state that `kept` returned. Tensors of a parameter's shape need its
        strides."""


class PlainAdam:
    """`torch.optim.Adam` with default settings, as in a typical script."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._adam = torch.optim.Adam(parameters, lr=0.0)

    def set_lr(self, lr: float) -> None:
        """See `Optimizer`."""
        for group in self._adam.param_groups:
            group["lr"] = lr

    def zero_grad(self) -> None:
        """See `Optimizer`."""
        self._adam.zero_grad()

    def step(self) -> None:
        """See `Optimizer`."""
        self._adam.step()

    def kept(self) -> Kept:
        """See `Optimizer`."""
        found: Kept = self._adam.state_dict()["state"]
        return found

    def put(self, kept: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Optimizer`."""
        self._adam.load_state_dict({**self._adam.state_dict(), "state": kept})


class FusedAdam:
    """The same numbers as `torch.optim.Adam(fused=True)`, computed by torch's own function.

    Creating a `torch.optim.Adam` imports `torch._dynamo`, which takes longer than a whole training
    on a fast GPU (torch 2.14; see `torch/_compile.py`). Remove this class when that changes.

    With `recordable`, the learning rate is stored on the device, where a CUDA graph reads it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, recordable: bool) -> None:
        self._parameters = list(parameters)
        device = self._parameters[0].device
        self._lr: float | Tensor = torch.tensor(0.0, device=device) if recordable else 0.0
        self._kept: Kept = {}

    def set_lr(self, lr: float) -> None:
        """See `Optimizer`."""
        if isinstance(self._lr, Tensor):
            self._lr.fill_(lr)
        else:
            self._lr = lr

    def zero_grad(self) -> None:
        """See `Optimizer`."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """See `Optimizer`."""
        if not self._kept:
            self._kept = dict(enumerate(map(_nothing_yet, self._parameters)))
        rows = [
            (parameter, parameter.grad, self._kept[number])
            for number, parameter in enumerate(self._parameters)
            if parameter.grad is not None
        ]
        adam(
            [parameter for parameter, _, _ in rows],
            [gradient for _, gradient, _ in rows],
            [kept["exp_avg"] for _, _, kept in rows],
            [kept["exp_avg_sq"] for _, _, kept in rows],
            [],
            [kept["step"] for _, _, kept in rows],
            fused=True,
            capturable=isinstance(self._lr, Tensor),
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self._lr,
            weight_decay=0.0,
            eps=_EPS,
            maximize=False,
        )

    def kept(self) -> Kept:
        """See `Optimizer`."""
        return self._kept

    def put(self, kept: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Optimizer`."""
        self._kept = {
            number: {
                name: value.to(self._parameters[number].device, copy=True)
                for name, value in row.items()
            }
            for number, row in kept.items()
        }


def _nothing_yet(parameter: Tensor) -> dict[str, Tensor]:
    """Return the state before the first step. The step counter is on the parameter's device, as
    fused kernels require."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
