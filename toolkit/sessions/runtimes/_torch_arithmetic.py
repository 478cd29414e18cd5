"""The arithmetic of torch's convolutions and products: pinned to float32, and shown by numbers.

In: the state of torch after the model's own code has run. Out: a word for the arithmetic.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor

from toolkit.processes.numerics import TF32_OVERRIDE, pin
from toolkit.schema import FLOAT32, UNKNOWN

BFLOAT16, TF32 = "bfloat16", "TF32"

_FULL = "ieee"
_IMAGES = 16  # with fewer, torch may use its own convolution instead of oneDNN's
_CHANNELS, _SIDE, _WIDTH = 8, 6, 64

# The largest relative error of a shortened factor. Rounding to bfloat16 changes it by 2^-9 of its
# size, truncation by 2^-8; TF32 and float16 have three more bits.
_BFLOAT16_ERROR, _TF32_ERROR, _FLOAT32_ERROR = 2**-9.5, 2**-13, 2**-20


def pin_arithmetic() -> None:
    """Ensure that fp32 is computed in float32: switch off everything that shortens the factors of
    float32 products.

    Call this before a model is built, and again afterwards: the code of its module may have changed
    flags, or the environment that oneDNN reads at its first convolution.
    """
    pin()
    torch.set_default_dtype(torch.float32)
    backends: Any = torch.backends
    for each in (backends, backends.mkldnn, backends.cudnn):
        each.fp32_precision = _FULL
    for each in _operators():
        each.fp32_precision = _FULL
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False


def allow_tf32() -> None:
    """Let the model's graph decide whether NVIDIA's libraries use TF32; torch's flags are
    unchanged.

    The variable that forbids TF32 is set when the process starts (`toolkit.processes.numerics`).
    With it, a graph that asks for TF32 would compute in float32 here, but nowhere else. Call this
    before the first convolution: cuDNN reads the variable once.
    """
    os.environ.pop(TF32_OVERRIDE, None)


def read_arithmetic(device: torch.device) -> str:
    """Return the word for the arithmetic in which `device` computes float32 convolutions and matrix
    products now.

    Flags show what is allowed on a GPU; a product with a known exact result shows what happens.
    """
    if device.type == "cuda" and any(each.fp32_precision != _FULL for each in _cuda_operators()):
        return TF32
    return _word(_largest_error(device))


def _operators() -> list[Any]:
    mkldnn: Any = torch.backends.mkldnn
    return [mkldnn.conv, mkldnn.matmul, mkldnn.rnn, *_cuda_operators()]


def _cuda_operators() -> list[Any]:
    backends: Any = torch.backends
    return [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]


def _word(error: float) -> str:
    if error <= _FLOAT32_ERROR:
        return FLOAT32
    if error >= _BFLOAT16_ERROR:
        return BFLOAT16
    return TF32 if error >= _TF32_ERROR else UNKNOWN


def _largest_error(device: torch.device) -> float:
    """Return the relative error of a convolution and of matrix products that return their input.

    Each sum has one term that is not 0, a number times 1. float32 gives exactly that number, in any
    order of summation; shorter factors give a shorter number.
    """
    generator = torch.Generator().manual_seed(0)
    images = _numbers(generator, _IMAGES, _CHANNELS, _SIDE, _SIDE).to(device)
    kernels = torch.zeros(_CHANNELS, _CHANNELS, 3, 3, dtype=torch.float32, device=device)
    for channel in range(_CHANNELS):
        kernels[channel, channel, 1, 1] = 1
    matrix = _numbers(generator, _WIDTH, _WIDTH).to(device)
    unit = torch.eye(_WIDTH, dtype=torch.float32, device=device)
    with torch.inference_mode():
        pairs = (
            (F.conv2d(images, kernels, padding=1), images),
            (matrix @ unit, matrix),
            (F.linear(matrix, unit, unit[0] * 0), matrix),
        )
        return max(float(((found - given) / given).abs().max()) for found, given in pairs)


def _numbers(generator: torch.Generator, *shape: int) -> Tensor:
    """Return numbers from 1 to 2, with all digits of float32."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") + 1
