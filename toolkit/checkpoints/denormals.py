"""Denormal (subnormal) weights: so small that many processors compute with them slowly.

In: weights. Out: the share of such values in each tensor that has many. Long weight decay leaves
whole channels below float32's normal range.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ToolkitWarning
from toolkit.schema import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_NORMAL = 2.0**-126  # of float32
_MANY = 0.01  # share of a tensor


def denormal_shares(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of denormal values in each tensor that has 1 % of them or more."""
    shares = {}
    for name, value in state.items():
        if value.is_floating_point() and value.numel():
            share = float(_denormal(value).double().mean())
            if share >= _MANY:
                shares[name] = round(share, 4)
    return shares


def flushed(value: Tensor) -> Tensor:
    """Return the tensor with zeros in place of denormal values."""
    return value.masked_fill(_denormal(value), 0) if value.is_floating_point() else value


def _denormal(value: Tensor) -> Tensor:
    magnitude = value.abs()
    return (magnitude > 0) & (magnitude < _SMALLEST_NORMAL)


def warn_of_denormals(record: Checkpoint, folder: Path) -> None:
    """Warn if many weights of a checkpoint are denormal, once in this process."""
    if record.denormals:
        _warn(tuple(record.denormals.items()), str(folder))


@functools.cache  # a command may load the same checkpoint several times
def _warn(denormals: tuple[tuple[str, float], ...], where: str) -> None:
    name, share = max(denormals, key=lambda each: each[1])
    others = len(denormals) - 1
    more = f", and many of {others} more tensors" if others else ""
    warnings.warn(
        f"{where}: {100 * share:.0f} % of the values of {name}{more} are denormal (subnormal, "
        "below 1.2e-38), which can make a runtime many times slower; import the weights with "
        "--flush-denormals to set them to zero",
        ToolkitWarning,
        stacklevel=2,
    )
