"""Parser of `.mnn` files: how weights are stored, and the kernels, which MNN's Python does not
report.

In: the bytes of a file that MNN has loaded and therefore checked. The file is a FlatBuffer; the
slots are those of MNN's schema/default (MNN.fbs, CaffeOp.fbs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from toolkit.schema import Precision

_OPS_OF_NET, _SUBGRAPHS_OF_NET, _OPS_OF_SUBGRAPH = 3, 10, 4
_PARAMETER_TYPE_OF_OP, _PARAMETER_OF_OP, _OTHER_FILE_OF_OP = 1, 2, 7
_CONVOLUTION = 9  # a linear layer is also stored as a convolution
_COMMON_OF_CONVOLUTION, _STORAGE_OF_CONVOLUTION, _TYPE_OF_STORAGE = 0, 3, 2
_KERNEL_AND_STEPS = range(2, 8)  # kernelX, kernelY, strideX, strideY, dilateX, dilateY
_HALF = 3  # 0 is float32, 1, 2 and 4 are kinds of int8


def weight_precision(data: bytes) -> Precision:
    """Return the lowest precision in which the weights of convolutions and linear layers are
    stored."""
    types = set(_storage_types(data))
    if types - {0, _HALF}:
        return "int8-weights"
    return "fp16" if _HALF in types else "fp32"


def may_use_winograd(data: bytes) -> bool:
    """Return whether there is a convolution that MNN may compute with the Winograd method: a square
    kernel larger than 1, without strides or dilation (ConvolutionWinogradImpl::canUseWinograd)."""
    for convolution in _convolutions(data):
        common = convolution.table(_COMMON_OF_CONVOLUTION)
        if common is None:
            continue
        width, height, *steps = (common.number(slot, "<i", default=1) for slot in _KERNEL_AND_STEPS)
        if width == height > 1 and set(steps) == {1}:
            return True
    return False


def names_other_files(data: bytes) -> bool:
    """Return whether an operator names another file, from which MNN would read its weights."""
    net = _Table.root(data)
    ops = [*net.tables(_OPS_OF_NET)]
    for subgraph in net.tables(_SUBGRAPHS_OF_NET):
        ops += subgraph.tables(_OPS_OF_SUBGRAPH)
    return any(op.table(_OTHER_FILE_OF_OP) is not None for op in ops)


def _storage_types(data: bytes) -> Iterator[int]:
    for convolution in _convolutions(data):
        storage = convolution.table(_STORAGE_OF_CONVOLUTION)
        yield 0 if storage is None else storage.number(_TYPE_OF_STORAGE, "<i")


def _convolutions(data: bytes) -> Iterator[_Table]:
    for op in _Table.root(data).tables(_OPS_OF_NET):
        parameter = op.table(_PARAMETER_OF_OP)
        if parameter is not None and op.number(_PARAMETER_TYPE_OF_OP, "<B") == _CONVOLUTION:
            yield parameter


class _Table:
    """A table of a FlatBuffer: numbers and other tables by their slot."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, 0)._at(0)

    def number(self, slot: int, kind: str, *, default: int = 0) -> int:
        """Return a number; `default` if it is not stored."""
        place = self._place(slot)
        return default if place is None else self._read(kind, place)

    def table(self, slot: int) -> _Table | None:
        place = self._place(slot)
        return None if place is None else self._at(place)

    def tables(self, slot: int) -> Iterator[_Table]:
        place = self._place(slot)
        if place is not None:
            vector = place + self._read("<I", place)
            for number in range(self._read("<I", vector)):
                yield self._at(vector + 4 + 4 * number)

    def _at(self, place: int) -> _Table:
        return _Table(self._data, place + self._read("<I", place))

    def _place(self, slot: int) -> int | None:
        """Return the position of the slot's value, from the table's own list of slots."""
        slots = self._start - self._read("<i", self._start)
        entry = 4 + 2 * slot
        offset = self._read("<H", slots + entry) if entry < self._read("<H", slots) else 0
        return self._start + offset if offset else None

    def _read(self, kind: str, place: int) -> int:
        value: int = struct.unpack_from(kind, self._data, place)[0]
        return value
