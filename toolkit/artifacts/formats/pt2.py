"""torch.export's `.pt2` archive: the model's ATen graph with a dynamic batch."""

from __future__ import annotations

import io
import json

import torch

from toolkit.artifacts.cards.contract import METADATA_FILE
from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._torch_files import forget_stack_traces
from toolkit.artifacts.formats._tracing import export_program


def export(request: Request) -> Written:
    """Export the model.

    Raises:
        Unsupported: torch.export cannot take it.
    """
    program = export_program(request.model, request.example)
    forget_stack_traces(program)
    buffer = io.BytesIO()
    files = {METADATA_FILE: json.dumps(dict(request.metadata))} if request.metadata else None
    torch.export.save(program, buffer, extra_files=files)
    request.path.write_bytes(buffer.getvalue())
    return Written()
