"""Parser of ONNX and `.ort` files: operators, types of tensors and casts, and the precision.

In: the file. Out: `Contents`. Nested graphs, functions, constants in nodes and sparse tensors count
as well. The bytes are read in place and weights are skipped: importing `onnx` would cost a worker
20 MB and 0.1 s, which would be counted as the runtime's.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.artifacts.parsers.protobuf import Message
from toolkit.files import open_regular
from toolkit.schema import FLOAT32, UNKNOWN, Precision

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_VALUES = 1
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_EXTERNAL = 1, 2, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# TensorProto.DataType; the .ort format uses the same values.
_FLOAT16, _DOUBLE, _BFLOAT16 = 10, 11, 16
_EIGHT_BITS_OR_LESS = {2, 3, *range(17, 24)}  # uint8, int8, float8, 4 bits

_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_INT8 = (
    *("QuantizeLinear", "QLinear", "QGemm", "QAttention", "QOrdered"),
    *("MatMulInteger", "ConvInteger"),
)
# Attributes that name a type, of Cast, RandomNormal, EyeLike, DequantizeLinear ...
_NAMES_A_TYPE = {"to", "dtype", "output_dtype", "stash_type"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The content of a file.

    Attributes:
        operators: Operators of all graphs and functions.
        weight_types: Types of stored tensors, as in `TensorProto.DataType`.
        matrix_types: The same for tensors with two or more dimensions.
        cast_types: Types that operators produce because an attribute names them.
        external: Names of other files that contain tensors.
    """

    operators: frozenset[str]
    weight_types: frozenset[int]
    matrix_types: frozenset[int] = frozenset()
    cast_types: frozenset[int] = frozenset()
    external: tuple[str, ...] = ()

    @property
    def precision(self) -> Precision:
        """int8 if it has quantised operators; otherwise the narrowest type of weights or values."""
        if self.operators & _DYNAMIC:
            return "int8-dynamic"
        if any(name.startswith(_INT8) for name in self.operators):
            return "int8"
        if "DequantizeLinear" in self.operators or self.matrix_types & _EIGHT_BITS_OR_LESS:
            return "int8-weights"
        types = self.weight_types | self.cast_types
        narrow: dict[int, Precision] = {_FLOAT16: "fp16", _BFLOAT16: "bf16"}
        found = [narrow[kind] for kind in sorted(types & narrow.keys())]
        return found[0] if found else "fp64" if _DOUBLE in self.weight_types else "fp32"

    @property
    def arithmetic(self) -> str:
        """The arithmetic of a runtime that follows the file."""
        precision = self.precision
        if precision == "fp16" and _FLOAT16 not in self.cast_types:
            return "float32 on float16 weights"
        words: dict[Precision, str] = {
            "fp32": FLOAT32,
            "fp64": "float64",
            "fp16": "float16",
            "bf16": "bfloat16",
            "int8": "int8",
            "int8-dynamic": "int8 (dynamic)",
            "int8-weights": "float32 on int8 weights",
        }
        return words.get(precision, UNKNOWN)


def read_onnx(path: Path) -> Contents:
    """Read an `.onnx` file.

    Raises:
        ValueError: Not a protocol buffer, truncated, or nested more deeply than any runtime reads.
    """
    found = _Found()
    with _mapped(path) as data:
        try:
            found.add_model(Message(data, 0, len(data)))
        except RecursionError as error:
            raise ValueError("its graphs are nested too deeply") from error
    return found.contents()


@dataclass
class _Found:
    """The findings so far."""

    operators: set[str] = field(default_factory=set)
    weight_types: set[int] = field(default_factory=set)
    matrix_types: set[int] = field(default_factory=set)
    cast_types: set[int] = field(default_factory=set)
    external: set[str] = field(default_factory=set)

    def contents(self) -> Contents:
        return Contents(
            operators=frozenset(self.operators),
            weight_types=frozenset(self.weight_types),
            matrix_types=frozenset(self.matrix_types),
            cast_types=frozenset(self.cast_types),
            external=tuple(sorted(self.external)),
        )

    def add_type(self, kind: int, dimensions: int) -> None:
        self.weight_types.add(kind)
        if dimensions > 1:
            self.matrix_types.add(kind)

    def add_model(self, model: Message) -> None:
        for graph in model.messages(_MODEL_GRAPH):
            self.add_graph(graph)
        for function in model.messages(_MODEL_FUNCTION):
            for node in function.messages(_FUNCTION_NODE):
                self.add_node(node)
            for attribute in function.messages(_FUNCTION_ATTRIBUTE):
                self.add_attribute(attribute)

    def add_graph(self, graph: Message) -> None:
        for node in graph.messages(_GRAPH_NODE):
            self.add_node(node)
        for tensor in graph.messages(_GRAPH_INITIALIZER):
            self.add_tensor(tensor)
        for sparse in graph.messages(_GRAPH_SPARSE):
            self.add_sparse(sparse)

    def add_node(self, node: Message) -> None:
        self.operators.update(node.texts(_NODE_OPERATOR))
        for attribute in node.messages(_NODE_ATTRIBUTE):
            self.add_attribute(attribute)

    def add_attribute(self, attribute: Message) -> None:
        if attribute.text(_ATTRIBUTE_NAME) in _NAMES_A_TYPE:
            self.cast_types.update(attribute.numbers(_ATTRIBUTE_INT))
        for number in _ATTRIBUTE_TENSORS:
            for tensor in attribute.messages(number):
                self.add_tensor(tensor)
        for number in _ATTRIBUTE_GRAPHS:
            for graph in attribute.messages(number):
                self.add_graph(graph)
        for number in _ATTRIBUTE_SPARSE:
            for sparse in attribute.messages(number):
                self.add_sparse(sparse)

    def add_sparse(self, sparse: Message) -> None:
        """Add a sparse tensor. Its values are stored in one dimension but belong to a matrix or a
        larger tensor."""
        for values in sparse.messages(_SPARSE_VALUES):
            self.add_tensor(values)
            self.matrix_types.update(values.numbers(_TENSOR_TYPE))

    def add_tensor(self, tensor: Message) -> None:
        dimensions = len(list(tensor.numbers(_TENSOR_DIMENSION)))
        for kind in tensor.numbers(_TENSOR_TYPE):
            self.add_type(kind, dimensions)
        for entry in tensor.messages(_TENSOR_EXTERNAL):
            if entry.text(_ENTRY_KEY) == "location":
                self.external.add(entry.text(_ENTRY_VALUE))

    def add_ort_graph(self, graph: Any) -> None:
        """Add a graph as the readers of ONNX Runtime's own format return it."""
        for number in range(graph.InitializersLength()):
            self.add_ort_tensor(graph.Initializers(number))
        for number in range(graph.SparseInitializersLength()):
            values = graph.SparseInitializers(number).Values()
            self.add_ort_tensor(values)
            self.matrix_types.add(values.DataType())
        for node in map(graph.Nodes, range(graph.NodesLength())):
            self.operators.add(node.OpType().decode())
            for attribute in map(node.Attributes, range(node.AttributesLength())):
                self.add_ort_attribute(attribute)

    def add_ort_attribute(self, attribute: Any) -> None:
        if attribute.Name().decode() in _NAMES_A_TYPE:
            self.cast_types.add(attribute.I())
        tensors = [attribute.T(), *map(attribute.Tensors, range(attribute.TensorsLength()))]
        for tensor in filter(None, tensors):
            self.add_ort_tensor(tensor)
        graphs = [attribute.G(), *map(attribute.Graphs, range(attribute.GraphsLength()))]
        for graph in filter(None, graphs):
            self.add_ort_graph(graph)

    def add_ort_tensor(self, tensor: Any) -> None:
        self.add_type(tensor.DataType(), tensor.DimsLength())
        if tensor.ExternalDataOffset() >= 0:
            self.external.add("a file beside it")


def read_ort(path: Path) -> Contents:
    """Read an `.ort` file with the readers in ONNX Runtime's Python package."""
    import onnxruntime

    # The same as importing onnxruntime.tools, which would also import torch.
    readers = str(Path(onnxruntime.__file__).parent / "tools" / "ort_format_model")
    if readers not in sys.path:
        sys.path.append(readers)
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    found = _Found()
    with _mapped(path) as data:
        found.add_ort_graph(InferenceSession.GetRootAs(data).Model().Graph())
    return found.contents()


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
