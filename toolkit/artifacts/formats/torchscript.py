"""TorchScript: the model traced on an example batch, saved by `torch.jit.save`."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from toolkit.artifacts.cards.contract import METADATA_FILE
from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._torch_files import rewrite_archive
from toolkit.artifacts.formats._tracing import trace
from toolkit.artifacts.parsers.torchscript import allows_tf32


def export(request: Request) -> Written:
    """Trace the model on the example."""
    with warnings.catch_warnings():
        # torch deprecates TorchScript from 2.13 on; it still works, and devices run it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        with _without_tf32():
            traced, frozen = trace(request.model, request.example)
        if allows_tf32(traced):
            raise ValueError(
                "a convolution of the traced model may use TF32, so it would not compute in "
                "float32 on a GPU; the model's own code must not set "
                "torch.backends.cudnn.allow_tf32"
            )
        files = {METADATA_FILE: json.dumps(dict(request.metadata))} if request.metadata else {}
        buffer = io.BytesIO()  # with a full disk, torch's own file writer ends in a C++ abort
        torch.jit.save(traced, buffer, _extra_files=files)
    request.path.write_bytes(rewrite_archive(buffer, _without_source_ranges))
    return Written(warnings=frozen)


def _without_source_ranges(name: str, content: bytes) -> bytes | None:
    """Leave out the files that say which line of which file of this machine an operator is from.
    PyTorch reads them, if they are there, for its error messages."""
    return None if name.endswith(".debug_pkl") else content


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Trace without TF32. A trace stores cuDNN's flag in each convolution, and no later flag
    changes it."""
    cudnn: Any = torch.backends.cudnn
    operators = (cudnn.conv, cudnn.rnn)  # torch raises an error on reading if the two differ
    before = [each.fp32_precision for each in operators]
    for each in operators:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        for each, precision in zip(operators, before, strict=True):
            each.fp32_precision = precision
