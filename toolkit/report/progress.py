"""Progress of slow steps: a callback, and progress bars on stderr.

A step calls `progress(label, done, total, note)`; each label has one bar. A step that is reported
only once, when it is finished, gets a line instead: the rows of verify, the formats of export.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

_REFRESHES_PER_S = 2  # the default of 10 took 1.7 % of a core next to the timed work


class Progress(Protocol):
    """Receives the progress of a step. `note` is a short text, such as `loss 0.03`."""

    def __call__(self, label: str, done: int, total: int, note: str = "", /) -> None: ...


def silent(label: str, done: int, total: int, note: str = "", /) -> None:
    """Ignore progress. This is the default in Python."""


def tell_finished(progress: Progress, label: str, outcome: str, seconds: float) -> None:
    """Report a finished row or file in one line, with the time that it took."""
    progress(label, 1, 1, f"{outcome} ({seconds:.1f} s)")


@contextmanager
def bars() -> Iterator[Progress]:
    """Show bars on stderr in a terminal; otherwise print one line per finished step."""
    if not sys.stderr.isatty():
        yield _line_printer(sys.stderr.write)
        return
    with ExitStack() as stack:
        yield _bar_drawer(stack)


def _bar_drawer(stack: ExitStack) -> Progress:
    """Show bars from the first step until `stack` ends. Import rich at the first step."""
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
        if label not in tasks and done == total:
            picture.console.print(_line(label, done, total, note), markup=False, highlight=False)
            return
        if label not in tasks:
            tasks[label] = picture.add_task(label, total=total, note=note)
        picture.update(tasks[label], completed=done, total=total, note=note)

    with picture:
        yield show


def _line_printer(write: Callable[[str], object]) -> Progress:
    def show(label: str, done: int, total: int, note: str = "", /) -> None:
        if done == total:
            with suppress(OSError):  # nobody can see it; the work goes on
                write(_line(label, done, total, note) + "\n")

    return show


def _line(label: str, done: int, total: int, note: str) -> str:
    """Return the line of a finished step. One of one needs no number."""
    number = "" if total == 1 else f"{done}/{total}"
    return f"{label}: {' '.join(filter(None, [number, note])) or 'done'}"
