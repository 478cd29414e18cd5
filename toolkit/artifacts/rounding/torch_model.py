"""A torch model with the rounding of a narrower precision, evaluated in float32 or float64.

In: a module and a variant such as `weights:fp16` or `products:tf32`. Out: a callable that maps
inputs `[N,C,H,W]` to logits `[N,K]`. `toolkit.artifacts.rounding.number_formats` does the rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.artifacts.rounding._dispatch import ReplacingMode
from toolkit.artifacts.rounding.number_formats import DROPPED_BITS, INT8_MAX, Kind
from toolkit.artifacts.rounding.ordered_sums import OrderedSums
from toolkit.errors import Unsupported
from toolkit.schema import Inputs

VARIANTS: dict[str, tuple[str, Kind]] = {
    "weights:fp16": ("weights", "fp16"),
    "weights:bf16": ("weights", "bf16"),
    "weights:int8": ("weights", "int8"),
    "products:fp16": ("products", "fp16"),
    "products:bf16": ("products", "bf16"),
    "products:tf32": ("products", "tf32"),
}
ORDERED_SUMS = "sums:ordered"

_BATCH_SIZE = 50
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATEN = torch.ops.aten
# Arguments of an operation that are multiplied with each other.
_OPERANDS: dict[object, tuple[int, int]] = {
    _ATEN.convolution.default: (0, 1),
    _ATEN.linear.default: (0, 1),
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.mv.default: (0, 1),
    _ATEN.dot.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.addmv.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
}


def apply_variant(model: nn.Module, variant: str) -> Callable[[Tensor], Tensor]:
    """Return the model in a variant; `weights` variants change the module itself.

    Raises:
        Unsupported: An unknown variant.
    """
    if variant == ORDERED_SUMS:
        return OrderedSums(model)
    if variant not in VARIANTS:
        known = ", ".join((*VARIANTS, ORDERED_SUMS))
        raise Unsupported(f"variant {variant!r}, expected one of {known}")
    part, kind = VARIANTS[variant]
    if part == "weights":
        round_weights(model, kind)
        return model
    return RoundedProducts(model, kind)


def logits_of(model: Callable[[Tensor], Tensor], inputs: Inputs) -> NDArray[np.floating]:
    """Return logits `[N,K]` of inputs `[N,C,H,W]`, as the model takes them, a few at a time."""
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(inputs), _BATCH_SIZE)
        parts = [model(batch) for batch in batches]
        logits: NDArray[np.floating] = torch.cat(parts).numpy()
    return logits


def round_weights(model: nn.Module, kind: Kind) -> None:
    """Round the parameters with two or more dimensions in place, as exporters do.

    Biases and the vectors of normalisation layers are unchanged. int8 has one step size per output
    channel.
    """
    channel_axes = {
        id(module.weight): 1 for module in model.modules() if isinstance(module, _TRANSPOSED)
    }
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.is_floating_point():
                axis = channel_axes.get(id(parameter), 0)
                parameter.copy_(round_tensor(parameter, kind, axis=axis))


def round_tensor(tensor: Tensor, kind: Kind, *, axis: int = 0) -> Tensor:
    """Round like `toolkit.artifacts.rounding.number_formats.round_to`, for tensors on any
    device."""
    values = tensor.to(torch.float32)
    if kind == "fp16":
        rounded = values.to(torch.float16).to(torch.float32)
    elif kind == "bf16":
        rounded = values.to(torch.bfloat16).to(torch.float32)
    elif kind == "tf32":
        rounded = _drop_bits(values, DROPPED_BITS[kind])
    else:
        others = [each for each in range(values.ndim) if each != axis]
        largest = values.abs().amax(others, keepdim=True)
        steps = torch.where(largest > 0, largest / INT8_MAX, 1.0)
        rounded = (values / steps).round().clamp(-INT8_MAX, INT8_MAX) * steps
    return rounded.to(tensor.dtype)


def _drop_bits(values: Tensor, count: int) -> Tensor:
    bits = values.contiguous().view(torch.int32)
    even = (bits >> count) & 1
    rounded = ((bits + ((1 << (count - 1)) - 1) + even) & -(1 << count)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)


class RoundedProducts:
    """A model with rounded operands of convolutions, linear layers and matrix products.

    Products, sums and everything else use the model's own dtype.
    """

    def __init__(self, model: nn.Module, kind: Kind) -> None:
        self._model = model
        self._mode = _RoundOperands(kind)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Inputs `[N,C,H,W]` → logits `[N,K]`."""
        # Fused attention kernels would hide the products inside.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH), self._mode:
                logits: Tensor = self._model(inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
        return logits


class _RoundOperands(ReplacingMode):
    """Rounds the operands of products before they reach the kernel."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self._kind = kind

    def replaced(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run a product with rounded operands."""
        if func not in _OPERANDS:
            return NotImplemented
        rounded = list(args)
        for at in _OPERANDS[func]:
            if rounded[at].is_floating_point():
                rounded[at] = round_tensor(rounded[at], self._kind)
        return func(*rounded, **named)
