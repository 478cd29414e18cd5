"""TorchScript: the model traced on an example batch, saved by `torch.jit.save`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


def export(model: nn.Module, example: Tensor, path: Path) -> int | None:
    """Trace `model` on `example` and write it to `path`."""
    with warnings.catch_warnings():
        # torch 2.13 and later call TorchScript deprecated; it still works, and devices run it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        with torch.no_grad():
            traced = torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()  # a full disk ends torch's own file writer in a C++ abort
        torch.jit.save(traced, buffer)
    path.write_bytes(buffer.getvalue())
    return None
