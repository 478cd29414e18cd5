"""Progress of anything that takes longer than two seconds: a callback, and its picture on stderr.

A step calls `progress(label, done, total, note)`; each label is one bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

_REFRESHES_PER_S = 2  # ten, the default, cost 1.7 % of a core beside what is being timed


class Progress(Protocol):
    """Told how far a step has come. `note` is short text, such as `loss 0.03`."""

    def __call__(self, label: str, done: int, total: int, note: str = "", /) -> None: ...


def silent(label: str, done: int, total: int, note: str = "", /) -> None:
    """Progress for nobody: the default in Python."""


@contextmanager
def bars() -> Iterator[Progress]:
    """Bars on stderr in a terminal; else one plain line for each step that is finished."""
    if not sys.stderr.isatty():
        yield _line_printer(sys.stderr.write)
        return
    with ExitStack() as stack:
        yield _bar_drawer(stack)


def _bar_drawer(stack: ExitStack) -> Progress:
    """Bars from the first step on, until `stack` ends. rich is imported only then."""
    show: Progress | None = None

    def draw(label: str, done: int, total: int, note: str = "", /) -> None:
        nonlocal show
        if show is None:
            show = stack.enter_context(_picture())
        show(label, done, total, note)

    return draw


@contextmanager
def _picture() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    picture = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        redirect_stdout=False,
        refresh_per_second=_REFRESHES_PER_S,
    )
    tasks = {}

    def show(label: str, done: int, total: int, note: str = "", /) -> None:
        if label not in tasks:
            tasks[label] = picture.add_task(label, total=total, note=note)
        picture.update(tasks[label], completed=done, total=total, note=note)

    with picture:
        yield show


def _line_printer(write: Callable[[str], object]) -> Progress:
    def show(label: str, done: int, total: int, note: str = "", /) -> None:
        if done == total:
            write(f"{label}: {done}/{total} {note}".rstrip() + "\n")

    return show
