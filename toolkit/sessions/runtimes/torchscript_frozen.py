"""TorchScript with constant weights and a graph rewritten for inference.

On a CPU, convolutions then run in oneDNN, with weights packed once, when the file is loaded. On
CUDA, a convolution and its ReLU are fused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from toolkit.errors import Unsupported, headline
from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source

if TYPE_CHECKING:
    from torch import Tensor


def load(source: Source, settings: Settings) -> Session:
    """Load a `.torchscript` file, then freeze and optimize it."""
    import torch

    from toolkit.artifacts.parsers.torchscript import allows_tf32, narrowest_cast
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    with warnings.catch_warnings():
        # torch deprecates TorchScript from 2.13 on; it still works, and devices run it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        model = torch.jit.load(source.path, map_location=device)
        weights = list(model.parameters())  # a frozen module has none
        frozen = torch.jit.freeze(model.eval())
        optimized = torch.jit.optimize_for_inference(frozen)
    return TorchSession(
        "torchscript-frozen",
        _or_unsupported(optimized),
        weights,
        device,
        narrowest=narrowest_cast(model),  # from the file: a rewritten graph may no longer show it
        # From the rewritten graph: on CUDA, its fused convolutions follow torch's flags, not the
        # file (cudnn_convolution_relu in torch's native/cudnn/ConvShared.cpp).
        tf32=allows_tf32(optimized),
    )


def _or_unsupported(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Report operators that the rewritten graph cannot run: oneDNN's average pooling, for example,
    needs an input size that is a multiple of the output size."""

    def call(images: Tensor) -> Tensor:
        try:
            return model(images)
        except RuntimeError as error:
            if "not supported" not in str(error):
                raise
            raise Unsupported(
                "torch.jit.optimize_for_inference cannot run this model: "
                f"{headline(error)}; use the runtime torchscript"
            ) from error

    return call
