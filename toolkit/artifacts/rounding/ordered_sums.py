"""A torch model whose sums are added one term after the other, in float32.

In: a module. Out: a callable that maps inputs `[N,C,H,W]` to logits `[N,K]`.

PyTorch adds the terms of a sum pairwise, so its rounding error hardly grows with the number of
terms. Other runtimes add them in order: the error then grows with the square root of their number,
or with their number if the terms are alike (Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., sections 2.8 and 4.2). Products of matrices and convolutions are unchanged, because PyTorch
adds their terms as other runtimes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions

from toolkit.artifacts.rounding._dispatch import ReplacingMode

_ATEN = torch.ops.aten
# Operations that contain sums, as formulas of others.
_FORMULAS: Mapping[Any, Callable[..., Any]] = get_decompositions(
    [
        _ATEN.native_layer_norm,
        _ATEN.native_group_norm,
        _ATEN.native_batch_norm,
        _ATEN._native_batch_norm_legit,
        _ATEN._softmax,
        _ATEN._log_softmax,
        _ATEN.logsumexp,
        _ATEN.linalg_vector_norm,
    ]
)


class OrderedSums:
    """A model whose sums are added in order; everything else is unchanged."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._mode = _AddInOrder()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Inputs `[N,C,H,W]` → logits `[N,K]`."""
        with self._mode:
            logits: Tensor = self._model(inputs)
        return logits


class _AddInOrder(ReplacingMode):
    """Replaces the kernels of sums, means and variances of float32 tensors."""

    def replaced(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Add in order; operations that contain sums are run as formulas of others."""
        if not _is_float32(args, named):
            return NotImplemented
        if func in _ORDERED:
            given = {name: value for name, value in named.items() if name != "dtype"}
            return _ORDERED[func](*args, **given)
        if func in _FORMULAS:
            with self:
                return _FORMULAS[func](*args, **named)
        return NotImplemented


def _is_float32(args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.numel():
        return False
    return first.dtype == torch.float32 and named.get("dtype") in (None, torch.float32)


def _sum(tensor: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Return the sum over `axes`; None or empty: over all."""
    every = range(tensor.ndim)
    summed = _summed(tensor, axes)
    kept = [axis for axis in every if axis not in summed]
    terms = tensor.permute(*kept, *summed).flatten(len(kept)) if summed else tensor[..., None]
    total = torch.from_numpy(np.add.accumulate(terms.numpy(), axis=-1)[..., -1:].copy())
    shape = [1 if axis in summed else size for axis, size in enumerate(tensor.shape)]
    total = total.reshape(shape)
    return total if keepdim else total.reshape([tensor.shape[axis] for axis in kept])


def _mean(tensor: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    return _sum(tensor, axes, keepdim) / _count(tensor, axes)


def _var_mean(
    tensor: Tensor,
    axes: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    mean = _mean(tensor, axes, keepdim=True)
    total = _sum((tensor - mean).square(), axes, keepdim)
    freedom = max(0, _count(tensor, axes) - (1 if correction is None else correction))
    return total / freedom, mean.reshape(total.shape)


def _var(*args: Any, **named: Any) -> Tensor:
    return _var_mean(*args, **named)[0]


def _std(*args: Any, **named: Any) -> Tensor:
    return _var(*args, **named).sqrt()


def _std_mean(*args: Any, **named: Any) -> tuple[Tensor, Tensor]:
    variance, mean = _var_mean(*args, **named)
    return variance.sqrt(), mean


def _summed(tensor: Tensor, axes: Sequence[int] | None) -> list[int]:
    return sorted({axis % tensor.ndim for axis in axes or range(tensor.ndim)})


def _count(tensor: Tensor, axes: Sequence[int] | None) -> int:
    return int(np.prod([tensor.shape[axis] for axis in _summed(tensor, axes)]))


def _cumsum(tensor: Tensor, axis: int) -> Tensor:
    return torch.from_numpy(np.add.accumulate(tensor.numpy(), axis=axis))


_ORDERED: dict[Any, Callable[..., Any]] = {
    _ATEN.sum.default: _sum,
    _ATEN.sum.dim_IntList: _sum,
    _ATEN.mean.default: _mean,
    _ATEN.mean.dim: _mean,
    _ATEN.cumsum.default: _cumsum,
    _ATEN.var.correction: _var,
    _ATEN.var_mean.correction: _var_mean,
    _ATEN.std.correction: _std,
    _ATEN.std_mean.correction: _std_mean,
}
