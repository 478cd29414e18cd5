"""Comparison of a file's graph with a fresh export: which operators differ; pure functions.

In: two lists of nodes in the order of computation. Out: sentences, and a `Cause`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from toolkit.schema import Cause

_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator: its type, its attributes as text, and the weights that it uses."""

    operator: str
    attributes: Mapping[str, str]
    weights: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """A text such as `Conv (conv1.weight)`."""
        return f"{self.operator} ({self.weights[0]})" if self.weights else self.operator


def compare_graphs(expected: Sequence[Node], found: Sequence[Node]) -> Cause | None:
    """Return the cause found in the graph; None if both graphs are the same."""
    differences = list(_differences(expected, found))
    if not differences:
        return None
    shown = "; ".join(differences[:_SHOWN])
    more = len(differences) - _SHOWN
    return Cause(
        kind="graph changed",
        text=f"The file's graph differs from a fresh export's: {shown}"
        f"{f'; and {more} more' if more > 0 else ''}.",
        action="Export the checkpoint again, and find out what changes the file after the export.",
    )


def _differences(expected: Sequence[Node], found: Sequence[Node]) -> Iterator[str]:
    ours, theirs = [each.operator for each in expected], [each.operator for each in found]
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            for first, second in zip(expected[i:j], found[k:m], strict=True):
                yield from _attributes(first, second)
        elif tag == "delete":
            yield f"{_listed(expected[i:j])} {_place(expected, i)} is missing"
        elif tag == "insert":
            where = "at the output" if m == len(theirs) else _place(found, k)
            yield f"there is an extra {_listed(found[k:m])} {where}"
        else:
            yield f"{_listed(expected[i:j])} {_place(expected, i)} became {_listed(found[k:m])}"


def _listed(nodes: Sequence[Node]) -> str:
    names = [each.operator for each in nodes[:4]]
    return ", ".join(names) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")


def _place(nodes: Sequence[Node], at: int) -> str:
    before = next((each for each in reversed(nodes[:at]) if each.weights), None)
    return f"after {before.words}" if before else "at the input"


def _attributes(first: Node, second: Node) -> Iterator[str]:
    for name in sorted({*first.attributes, *second.attributes}):
        ours, theirs = first.attributes.get(name), second.attributes.get(name)
        if ours != theirs:
            yield (
                f"{name} of {first.words} is {theirs or 'not set'}, "
                f"{ours or 'not set'} in a fresh export"
            )
