"""Removal of this machine's paths from what PyTorch writes, shared by its formats."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

_WRITTEN_BY_TORCH = ".data/serialization_id"  # a checksum of the other records


def forget_stack_traces(program: ExportedProgram) -> None:
    """Remove the stack trace that each node got when it was traced: it names files of this
    machine."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def rewrite_archive(archive: io.BytesIO, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return one of torch's archives with the records that `change(name, content)` returns; None
    leaves a record out.

    Torch writes it, because weights must begin at multiples of 64 bytes.
    """
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    changed = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(changed)
    for name in reader.get_all_records():
        if name == _WRITTEN_BY_TORCH:
            continue
        content = change(name, reader.get_record(name))
        if content is not None:
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return changed.getvalue()
