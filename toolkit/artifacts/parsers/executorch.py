"""Parser of ExecuTorch programs: the share that XNNPACK computes, and the precision.

In: the bytes of a `.pte` file. Out: a `Program`. ExecuTorch's own Python runtime does not report
this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ArtifactError, Unsupported
from toolkit.schema import Precision

XNNPACK = "XnnpackBackend"

# Operators that compute no values: sizes, and views of memory.
_BOOKKEEPING = ("aten::sym_size", "executorch_prim::")

# From schema.fbs and xnnpack_graph_serialize.py in executorch/backends/xnnpack/serialization, which
# takes seconds to import. The position of a field in its table is 4 + 2 * its number.
_MAGIC, _MAGIC_AT = b"XH00", slice(4, 8)
_GRAPH_AT = slice(10, 14)
_GRAPH_NODES, _GRAPH_VALUES = 6, 8
_UNION_TYPE, _UNION = 4, 6
_QUANTISED = 2  # XValueUnion's XNNQuantizedTensorValue, whose first field is the tensor
_QUANTISED_TENSOR = 4
_TENSOR_DATATYPE, _TENSOR_CONSTANT = 4, 10
_FP32, _FP16, _BF16 = 1, 2, 14
_INT8_WEIGHTS = {3, 6}  # one scale for the tensor, one per channel
_INT8_VALUES = {3, 4}
_INT8_MEASURED_AT_EACH_CALL = {9, 11}


@dataclass(frozen=True, kw_only=True)
class Program:
    """The content of the `forward` method.

    Attributes:
        delegated: Operators that the XNNPACK delegate computes.
        operators: All operators, without those that only handle shapes.
        datatypes: XNNPACK's numbers of its tensors' types, each with whether the tensor is
            constant.
    """

    delegated: int
    operators: int
    datatypes: frozenset[tuple[int, bool]]

    @property
    def precision(self) -> Precision:
        """Return the precision of the weights and of the values between the delegate's layers.

        Raises:
            Unsupported: The toolkit has no name for it.
        """
        weights = {datatype for datatype, constant in self.datatypes if constant}
        values = {datatype for datatype, constant in self.datatypes if not constant}
        if weights & _INT8_WEIGHTS:
            if values & _INT8_MEASURED_AT_EACH_CALL:
                return "int8-dynamic"
            return "int8" if values & _INT8_VALUES else "int8-weights"
        floats: dict[int, Precision] = {_FP32: "fp32", _FP16: "fp16", _BF16: "bf16"}
        found = weights or values
        if len(found) == 1 and found <= floats.keys():
            return floats[found.pop()]
        raise Unsupported(
            f"a program with XNNPACK tensors of datatypes {sorted(found)}; expected weights of "
            f"one float type ({sorted(floats)}) or of int8 ({sorted(_INT8_WEIGHTS)})"
        )


def read_program(data: bytes) -> Program:
    """Read a file that the runtime has already found consistent.

    Raises:
        Unsupported: No part of it is delegated to XNNPACK.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall

    program = deserialize_pte_binary(data).program
    plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    calls = [each.instr_args for chain in plan.chains for each in chain.instructions]
    called = [plan.delegates[each.delegate_index] for each in calls if type(each) is DelegateCall]
    names = [plan.operators[each.op_index].name for each in calls if type(each) is KernelCall]
    graphs = [
        _XnnGraph(program.backend_delegate_data[delegate.processed.index].data)
        for delegate in called
        if delegate.id == XNNPACK
    ]
    if not graphs:
        raise Unsupported(
            "no operator of this program is delegated to XNNPACK; export it again with "
            "toolkit export --format executorch"
        )
    delegated = sum(graph.nodes for graph in graphs)
    portable = sum(not name.startswith(_BOOKKEEPING) for name in names)
    others = len(called) - len(graphs)
    return Program(
        delegated=delegated,
        operators=delegated + portable + others,
        datatypes=frozenset(each for graph in graphs for each in graph.datatypes()),
    )


class _XnnGraph:
    """One delegate's graph: a flatbuffer after a header that says where it starts.

    Raises:
        ArtifactError: Another header.
    """

    def __init__(self, data: bytes) -> None:
        from flatbuffers import number_types
        from flatbuffers.table import Table

        if data[_MAGIC_AT] != _MAGIC:
            raise ArtifactError(
                f"an XNNPACK delegate that starts with {data[:8]!r}, expected {_MAGIC!r} in it; "
                "export it again with toolkit export --format executorch"
            )
        self._table = Table
        self._number_types = number_types
        start = int.from_bytes(data[_GRAPH_AT], "little")
        self._graph = Table(data, Table(data, start).Indirect(start))

    @property
    def nodes(self) -> int:
        """Number of operators in the graph."""
        return int(self._graph.VectorLen(self._graph.Offset(_GRAPH_NODES)))

    def datatypes(self) -> Iterator[tuple[int, bool]]:
        """Type of each tensor, and whether it is constant."""
        field = self._graph.Offset(_GRAPH_VALUES)
        first = self._graph.Vector(field)
        for number in range(self._graph.VectorLen(field)):
            value = self._table(self._graph.Bytes, self._graph.Indirect(first + 4 * number))
            tensor = self._child(value, _UNION)
            if self._number(value, _UNION_TYPE, self._number_types.Uint8Flags) == _QUANTISED:
                tensor = self._child(tensor, _QUANTISED_TENSOR)
            datatype = self._number(tensor, _TENSOR_DATATYPE, self._number_types.Int16Flags)
            constant = self._number(tensor, _TENSOR_CONSTANT, self._number_types.Uint32Flags)
            yield datatype, constant != 0

    def _child(self, table: Any, field: int) -> Any:
        return self._table(table.Bytes, table.Indirect(table.Pos + table.Offset(field)))

    def _number(self, table: Any, field: int, flags: Any) -> int:
        return int(table.GetSlot(field, 0, flags))
