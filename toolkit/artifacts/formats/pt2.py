"""torch.export's `.pt2` archive: the model's ATen graph with a dynamic batch."""

from __future__ import annotations

import io

import torch

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._torch_files import forget_stack_traces


def export(request: Request) -> Written:
    """Export the model."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        request.model, (request.example,), dynamic_shapes={"input": {0: batch}}
    )
    forget_stack_traces(program)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    request.path.write_bytes(buffer.getvalue())
    return Written()
