"""Reader of protocol buffers in place, without a description of their messages.

In: the bytes of a file. Out: fields by number. The encoding is described in
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _BYTES, _GROUP, _GROUP_END = 0, 2, 3, 4  # wire types
_FIXED_BYTES = {1: 8, 5: 4}  # wire type → size


@dataclass(frozen=True)
class Message:
    """A message: `data` from `at` to `end`."""

    data: mmap.mmap
    at: int
    end: int

    def messages(self, wanted: int) -> Iterator[Message]:
        """Return each occurrence of the field `wanted` as a message."""
        for field, kind, start, stop in self._fields():
            if (field, kind) == (wanted, _BYTES):
                yield Message(self.data, start, stop)

    def texts(self, wanted: int) -> Iterator[str]:
        """Return each occurrence as text."""
        for each in self.messages(wanted):
            yield self.data[each.at : each.end].decode(errors="replace")

    def numbers(self, wanted: int) -> Iterator[int]:
        """Return each occurrence as whole numbers, single or packed."""
        for field, kind, start, stop in self._fields():
            if (field, kind) == (wanted, _VARINT):
                yield _varint(self.data, start)[0]
            elif (field, kind) == (wanted, _BYTES):
                while start < stop:
                    value, start = _varint(self.data, start)
                    yield value

    def text(self, wanted: int) -> str:
        """Return its last value; empty if it is not there."""
        return next(reversed(list(self.texts(wanted))), "")

    def _fields(self) -> Iterator[tuple[int, int, int, int]]:
        """Return number, wire type and span of each field. Groups are skipped, as every reader
        skips them that does not know them."""
        at, groups = self.at, list[int]()
        while at < self.end:
            tag, start = _varint(self.data, at)
            kind = tag & 7
            if kind in (_GROUP, _GROUP_END):
                stop = start
            elif kind == _VARINT:
                stop = _varint(self.data, start)[1]
            elif kind == _BYTES:
                size, start = _varint(self.data, start)
                stop = start + size
            elif kind in _FIXED_BYTES:
                stop = start + _FIXED_BYTES[kind]
            else:
                raise ValueError(f"not a protocol buffer: wire type {kind} at byte {at}")
            if stop > self.end:
                raise ValueError(
                    f"field at byte {at} ends at {stop}, but its message ends at {self.end}"
                )
            if kind == _GROUP:
                groups.append(tag >> 3)
            elif kind == _GROUP_END:
                if not groups or groups.pop() != tag >> 3:
                    raise ValueError(f"not a protocol buffer: no group ends at byte {at}")
            elif not groups:
                yield tag >> 3, kind, start, stop
            at = stop
        if groups:
            raise ValueError(f"group {groups[-1]} does not end")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and the position of the next byte."""
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"no number at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
