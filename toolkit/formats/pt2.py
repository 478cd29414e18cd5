"""torch.export's `.pt2` archive: the model's ATen graph with a dynamic batch."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn


def export(model: nn.Module, example: Tensor, path: Path) -> int | None:
    """Export `model` and write it to `path`."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (example,), dynamic_shapes={"input": {0: batch}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    return None
