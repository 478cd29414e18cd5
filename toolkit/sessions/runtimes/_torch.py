"""Shared code of the runtimes based on torch: settings, calls, and attestation.

In: a loaded module or program. Out: a session. `toolkit.sessions.runtimes._torch_calls` makes its
calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.errors import Unsupported
from toolkit.schema import Attestation, Evidence, Inputs, Precision, Settings
from toolkit.sessions.runtimes._torch_arithmetic import (
    BFLOAT16,
    TF32,
    allow_tf32,
    pin_arithmetic,
    read_arithmetic,
)
from toolkit.sessions.runtimes._torch_calls import Call, direct_call, staged_call

_PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
_ARITHMETIC = {"fp64": "float64", "fp16": "float16", "bf16": BFLOAT16}


def prepare_torch(settings: Settings) -> torch.device:
    """Set threads and arithmetic; return the device.

    Raises:
        Unsupported: CUDA was requested, and torch finds none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise Unsupported(f"torch {torch.__version__} finds no CUDA device here; use --device cpu")
    torch.set_num_threads(settings.threads)
    if torch.get_num_interop_threads() != 1:  # torch accepts this once, before its first operation
        torch.set_num_interop_threads(1)
    pin_arithmetic()
    return torch.device(settings.device)


class TorchSession:
    """Runs a callable on tensors; copies to and from the device are part of a call.

    Args:
        narrowest: The narrowest float type that the model casts activations to, if its graph shows
            it.
        tf32: The model's graph lets convolutions use TF32, whatever torch's flags are.
        compiled: The code was compiled earlier, with flags that this process cannot see.
        call: The function that makes a call; None is the default of the device.
    """

    def __init__(
        self,
        runtime: str,
        model: Callable[[Tensor], Tensor],
        parameters: Iterable[Tensor],
        device: torch.device,
        *,
        narrowest: torch.dtype | None = None,
        tf32: bool = False,
        compiled: bool = False,
        call: Call | None = None,
    ) -> None:
        pin_arithmetic()  # again, because the code of a user's model has run since
        tensors = list(parameters)
        self._runtime = runtime
        self._device = device
        dtype = _one_dtype(tensors)
        self._precision = _PRECISIONS[narrowest or dtype]
        usual = staged_call if device.type == "cuda" else direct_call
        self._call = call or usual(model, dtype)
        self._devices = {tensor.device.type for tensor in tensors}
        self._tf32 = tf32
        if tf32 and device.type == "cuda":
            allow_tf32()  # as in every other program that loads the file
        self._compiled = compiled

    @property
    def attestation(self) -> Attestation:
        """Settings read back from torch and from the loaded parameters. A few products show the
        arithmetic that is used now."""
        cuda = self._device.type == "cuda"
        return Attestation(
            runtime=self._runtime,
            version=str(torch.__version__),
            provider=torch.cuda.get_device_name(self._device) if cuda else "cpu",
            device="cuda" if self._devices == {"cuda"} else "cpu",
            precision=self._precision,
            threads=torch.get_num_threads(),
            arithmetic=self._arithmetic(),
            evidence=self._evidence(),
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`, in host memory on return."""
        with torch.inference_mode():
            return self._call(inputs)

    def _arithmetic(self) -> str:
        if self._precision != "fp32":
            return _ARITHMETIC[self._precision]
        if self._tf32 and self._device.type == "cuda":
            return TF32
        return read_arithmetic(self._device)

    def _evidence(self) -> dict[str, Evidence]:
        return {
            "provider": "read back",
            "precision": "read back",
            "threads": "read back",
            "arithmetic": "as asked" if self._compiled else "read back",
        }


def _one_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in parameters if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise Unsupported(f"parameters have dtypes {sorted(map(str, dtypes))}, expected one")
    return dtypes.pop()
