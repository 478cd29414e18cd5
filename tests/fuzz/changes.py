"""Changes of bytes and of JSON, as strategies of hypothesis.

In: healthy content. Out: strategies of damaged content; hypothesis makes a failing one smaller.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Change = Callable[[bytes], bytes]
Key = str | int

_EXTREMES = (0, 1, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x8000_0000_0000_0000, 2**64 - 1)
_ODD_TEXTS = ("", "..", "/etc/passwd", "a/b", "\0", "\x1b[2J", "\ud800", "[/b]", "x" * 5000, "é")
_ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 1e-320, 0.5)


def _flip(at: int, bit: int) -> Change:
    def change(content: bytes) -> bytes:
        data = bytearray(content)
        if data:
            data[at % len(data)] ^= 1 << bit
        return bytes(data)

    return change


def _put(at: int, new: bytes) -> Change:
    """Overwrite."""

    def change(content: bytes) -> bytes:
        place = at % (len(content) + 1)
        return content[:place] + new + content[place + len(new) :]

    return change


def _insert(at: int, new: bytes) -> Change:
    def change(content: bytes) -> bytes:
        place = at % (len(content) + 1)
        return content[:place] + new + content[place:]

    return change


def _cut(at: int, size: int) -> Change:
    """Remove some bytes; a large size truncates."""

    def change(content: bytes) -> bytes:
        place = at % (len(content) + 1)
        return content[:place] + content[place + size :]

    return change


def _number(at: int, value: int, kind: str) -> Change:
    size = struct.calcsize(kind)
    return _put(at, struct.pack(kind, value & (1 << 8 * size) - 1))


def _places(size: int) -> st.SearchStrategy[int]:
    """Favour the beginning and the end, where the structure usually is."""
    return st.one_of(
        st.integers(0, min(size, 256)),
        st.integers(max(0, size - 256), size),
        st.integers(0, size),
    )


def byte_changes(size: int) -> st.SearchStrategy[Change]:
    """Changes of content of about this size."""
    places, short = _places(size), st.binary(min_size=1, max_size=16)
    return st.one_of(
        st.builds(_flip, places, st.integers(0, 7)),
        st.builds(_put, places, short),
        st.builds(_insert, places, short),
        st.builds(_cut, places, st.one_of(st.integers(1, 16), st.just(size))),
        st.builds(
            _number, places, st.sampled_from(_EXTREMES), st.sampled_from(["<I", ">I", "<Q", "<H"])
        ),
    )


def damaged_bytes(healthy: bytes) -> st.SearchStrategy[bytes]:
    """The content with a few changes."""

    def apply(changes: Sequence[Change]) -> bytes:
        content = healthy
        for change in changes:
            content = change(content)
        return content

    return st.lists(byte_changes(len(healthy)), min_size=1, max_size=4).map(apply)


def odd_values() -> st.SearchStrategy[Any]:
    """JSON values that a record does not expect."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(_ODD_NUMBERS),
        st.floats(),  # NaN and infinity are not JSON, but Python reads them
        st.sampled_from(_ODD_TEXTS),
        st.text(max_size=8),
    )
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    )


def damaged_json(healthy: bytes) -> st.SearchStrategy[bytes]:
    """The document with a few other values, fewer keys or longer lists; or with changed bytes."""
    paths = list(_paths(json.loads(healthy)))
    edits = st.tuples(
        st.sampled_from(paths),
        st.one_of(st.just("remove"), st.just("repeat"), st.just("replace")),
        odd_values(),
    )

    def apply(chosen: Sequence[tuple[tuple[Key, ...], str, Any]]) -> bytes:
        document = json.loads(healthy)
        for path, how, value in chosen:
            document = _edited(document, path, how, value)
        return json.dumps(document).encode()

    values = st.lists(edits, min_size=1, max_size=3).map(apply)
    return st.one_of(values, values, values, damaged_bytes(healthy))


def _paths(value: Any, at: tuple[Key, ...] = ()) -> Iterator[tuple[Key, ...]]:
    yield at
    items: list[tuple[Key, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:3]))
    for key, inner in items:
        yield from _paths(inner, (*at, key))


def _edited(document: Any, path: tuple[Key, ...], how: str, value: Any) -> Any:
    """Return the document with one change; a path that an earlier change removed changes
    nothing."""
    if not path:
        return value if how == "replace" else document
    *before, last = path
    place = document
    try:
        for key in before:
            place = place[key]
        if how == "remove":
            del place[last]
        elif how == "repeat" and isinstance(place[last], list):
            place[last] = place[last] * 3
        elif how == "replace":
            place[last] = value
    except (KeyError, IndexError, TypeError):
        pass
    return document
