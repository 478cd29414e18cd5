"""What an ONNX or `.ort` file is made of: its operators and the types of its weights, and by these
its precision.

In: the file. Out: a `Precision`. The bytes are walked where they lie, weights skipped: importing
`onnx` for it costs a worker 20 MB and 0.1 s, which would count as the runtime's.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.schema import Precision

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_OPERATOR, _TENSOR_TYPE = 4, 2
_FLOAT16, _DOUBLE, _BFLOAT16 = 10, 11, 16  # TensorProto.DataType; the .ort format has the same

_VARINT, _BYTES = 0, 2  # wire types
_FIXED_BYTES = {1: 8, 5: 4}  # wire type → size

_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Operators of the graph, and data types of its weights as `TensorProto.DataType` has them."""

    operators: frozenset[str]
    weight_types: frozenset[int]

    @property
    def precision(self) -> Precision:
        """int8 where it has quantised operators; else what its narrowest weights are."""
        if self.operators & _DYNAMIC:
            return "int8-dynamic"
        if any(name.startswith(("QuantizeLinear", "QLinear", "QGemm")) for name in self.operators):
            return "int8"
        if "DequantizeLinear" in self.operators:
            return "int8-weights"
        narrow: dict[int, Precision] = {_FLOAT16: "fp16", _BFLOAT16: "bf16"}
        found = [narrow[kind] for kind in sorted(self.weight_types & narrow.keys())]
        return found[0] if found else "fp64" if _DOUBLE in self.weight_types else "fp32"


def read_onnx(path: Path) -> Contents:
    """Walk an `.onnx` file.

    Raises:
        ValueError: it is no protocol buffer, or is cut short.
    """
    operators: set[str] = set()
    weight_types: set[int] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for at, end in _messages(data, 0, len(data), _MODEL_GRAPH):
            for node in _messages(data, at, end, _GRAPH_NODE):
                names = _messages(data, *node, _NODE_OPERATOR)
                operators.update(data[slice(*span)].decode() for span in names)
            for tensor in _messages(data, at, end, _GRAPH_INITIALIZER):
                weight_types.update(_numbers(data, *tensor, _TENSOR_TYPE))
    return Contents(operators=frozenset(operators), weight_types=frozenset(weight_types))


def read_ort(path: Path) -> Contents:
    """Walk an `.ort` file, with the readers that ONNX Runtime's Python package brings."""
    import onnxruntime

    # What onnxruntime.tools does when it is imported; but that imports torch as well.
    readers = str(Path(onnxruntime.__file__).parent / "tools" / "ort_format_model")
    if readers not in sys.path:
        sys.path.append(readers)
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = InferenceSession.GetRootAs(data).Model().Graph()
        nodes = (graph.Nodes(number) for number in range(graph.NodesLength()))
        weights = (graph.Initializers(number) for number in range(graph.InitializersLength()))
        return Contents(
            operators=frozenset(node.OpType().decode() for node in nodes),
            weight_types=frozenset(weight.DataType() for weight in weights),
        )


def _messages(data: mmap.mmap, at: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the bytes of each field `wanted` of the message at `at:end` begin and end."""
    for field, kind, start, stop in _fields(data, at, end):
        if (field, kind) == (wanted, _BYTES):
            yield start, stop


def _numbers(data: mmap.mmap, at: int, end: int, wanted: int) -> Iterator[int]:
    """The values of each number `wanted` of the message at `at:end`."""
    for field, kind, start, _ in _fields(data, at, end):
        if (field, kind) == (wanted, _VARINT):
            yield _varint(data, start)[0]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and span of each field, by
    https://protobuf.dev/programming-guides/encoding."""
    while at < end:
        tag, start = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            stop = _varint(data, start)[1]
        elif kind == _BYTES:
            size, start = _varint(data, start)
            stop = start + size
        elif kind in _FIXED_BYTES:
            stop = start + _FIXED_BYTES[kind]
        else:
            raise ValueError(f"no protocol buffer: wire type {kind} at byte {at}")
        if stop > end:
            raise ValueError(f"field at byte {at} ends at {stop}, its message at {end}")
        yield tag >> 3, kind, start, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where the next byte is."""
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"no number at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
