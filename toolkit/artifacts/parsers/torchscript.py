"""Parser of TorchScript graphs: properties that no flag of a session changes.

In: a traced or loaded module. Out: whether its convolutions may use TF32, and the narrowest float
type that it casts to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_ALLOW_TF32 = "bool allow_tf32"
_CASTS = ("aten::to", "aten::_to_copy", "aten::half", "aten::bfloat16")
# torch's numbers of its types, as graphs have them (c10/core/ScalarType.h).
_NARROW = {5: torch.float16, 15: torch.bfloat16}


def allows_tf32(module: Any) -> bool:
    """Return whether any operator has `allow_tf32`. A trace stores it in each convolution, from the
    flags at that time, and it overrides those of the process that loads the file."""
    graph = module.inlined_graph
    for node in _nodes(graph):
        schema = node.schema()
        if _ALLOW_TF32 not in schema:
            continue
        names = [each.strip() for each in schema[: schema.rindex(") ->")].split(", ")]
        if list(node.inputs())[names.index(_ALLOW_TF32)].toIValue() is not False:
            return True
    return False


def narrowest_cast(module: Any) -> torch.dtype | None:
    """Return float16 or bfloat16 if the graph casts to it, else None."""
    graph = module.inlined_graph
    for node in _nodes(graph):
        if not node.kind().startswith(_CASTS):
            continue
        if node.kind() == "aten::half":
            return torch.float16
        if node.kind() == "aten::bfloat16":
            return torch.bfloat16
        for value in node.inputs():
            if value.type().kind() == "IntType" and value.toIValue() in _NARROW:
                return _NARROW[value.toIValue()]
    return None


def _nodes(graph: Any) -> Iterator[Any]:
    """Return all nodes of a graph, including those in nested branches."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)
