"""TorchScript: the model traced on an example batch, saved by `torch.jit.save`."""

from __future__ import annotations

import io
import warnings

import torch

from toolkit.formats import Request, Written


def export(request: Request) -> Written:
    """Trace the model on the example."""
    with warnings.catch_warnings():
        # torch 2.13 and later call TorchScript deprecated; it still works, and devices run it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        with torch.no_grad():
            traced = torch.jit.trace(request.model, request.example)  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()  # a full disk ends torch's own file writer in a C++ abort
        torch.jit.save(traced, buffer)
    request.path.write_bytes(buffer.getvalue())
    return Written()
