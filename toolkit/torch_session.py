"""What the runtimes that stand on torch share: settings in place, one call, and what really ran.

In: a loaded module or program. Out: a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.errors import Unsupported
from toolkit.schema import Attestation, Precision, Settings

_PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


def prepare_torch(settings: Settings) -> torch.device:
    """Put threads and precision in place; returns the device.

    fp32 means fp32: the shortened multiplications (TF32, bf16) that torch may use are off.

    Raises:
        Unsupported: CUDA was asked for and torch finds none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise Unsupported(f"torch {torch.__version__} finds no CUDA device here; use --device cpu")
    torch.set_num_threads(settings.threads)
    if torch.get_num_interop_threads() != 1:  # torch takes it once, and not after work has begun
        torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(settings.device)


class TorchSession:
    """Runs a callable on tensors; the copy to and from the device is part of a call."""

    def __init__(
        self,
        runtime: str,
        model: Callable[[Tensor], Tensor],
        parameters: Iterable[Tensor],
        device: torch.device,
    ) -> None:
        tensors = list(parameters)
        self._runtime = runtime
        self._model = model
        self._device = device
        self._dtype = _one_dtype(tensors)
        self._devices = {tensor.device.type for tensor in tensors}

    @property
    def attestation(self) -> Attestation:
        """Read back from torch and from the loaded parameters."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        return Attestation(
            runtime=self._runtime,
            version=str(torch.__version__),
            provider=name,
            device="cuda" if self._devices == {"cuda"} else "cpu",
            precision=_PRECISIONS[self._dtype],
            threads=torch.get_num_threads(),
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`; back on the host when it returns."""
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(inputs).to(self._device, self._dtype))
            if self._dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            output: NDArray[np.floating] = logits.cpu().numpy()
        return output


def _one_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in parameters if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise Unsupported(f"parameters have dtypes {sorted(map(str, dtypes))}, expected one")
    return dtypes.pop()
