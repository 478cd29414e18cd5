"""Several artifacts at a time: what to write → artifacts, in the order in which they are ready.

A format with its own process is converted beside another one. Formats that are written in this
process, which could disturb each other, take turns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from toolkit.artifacts.formats import Format
from toolkit.artifacts.writer import ArtifactWriter, Writing
from toolkit.errors import FailedRun
from toolkit.machine.environment import usable_cores
from toolkit.schema import Artifact, Precision
from toolkit.timing import Stopwatch

Pair = tuple[Format, Precision]

MOST_AT_A_TIME = 2  # more converters of a large model may not fit into the memory
_POLL_S = 0.02

# What a converter needs: its libraries, and copies of the weights.
_LIBRARIES_BYTES = 1_200_000_000
_COPIES = 12


@dataclass(frozen=True, kw_only=True)
class _Begun:
    pair: Pair
    writing: Writing
    closing: ExitStack
    watch: Stopwatch


def at_a_time(weights_bytes: int) -> int:
    """Return how many artifacts of a model may be written at a time: two, if there are cores and
    free memory for them."""
    needed = _LIBRARIES_BYTES + _COPIES * weights_bytes
    fitting = psutil.virtual_memory().available // needed
    return max(1, min(MOST_AT_A_TIME, usable_cores(), fitting))


def write_side_by_side(
    writer: ArtifactWriter, pairs: Sequence[Pair], *, most: int
) -> Generator[tuple[Pair, Artifact | FailedRun, float], None, None]:
    """Write the artifacts, at most `most` at a time, and yield each with the seconds it took. Close
    the iterator to stop the converters.

    Raises:
        OutputError: The location is not writable, or the disk is full.
    """
    here = deque(each for each in pairs if each[0].usual)
    apart = deque(each for each in pairs if not each[0].usual)
    running: list[_Begun] = []
    with ExitStack() as stack:
        while here or apart or running:
            while apart and len(running) + bool(here) < most:
                pair = apart.popleft()
                try:
                    running.append(_begin(writer, pair, stack))
                except FailedRun as failure:
                    yield pair, failure, 0.0
            if here:
                pair = here.popleft()
                try:
                    begun = _begin(writer, pair, stack)
                except FailedRun as failure:
                    yield pair, failure, 0.0
                    continue
            elif running:
                begun = _first_ready(running)
                running.remove(begun)
            else:
                continue
            outcome = _finish(begun)
            yield begun.pair, outcome, begun.watch.elapsed_s()


def _begin(writer: ArtifactWriter, pair: Pair, stack: ExitStack) -> _Begun:
    """Begin an artifact; `stack` ends it if nobody finishes it."""
    closing, watch = ExitStack(), Stopwatch()
    stack.push(closing)
    writing = closing.enter_context(writer.begin(*pair))
    return _Begun(pair=pair, writing=writing, closing=closing, watch=watch)


def _finish(begun: _Begun) -> Artifact | FailedRun:
    with begun.closing:
        try:
            return begun.writing.finish()
        except FailedRun as failure:
            return failure


def _first_ready(running: Sequence[_Begun]) -> _Begun:
    pause = threading.Event()  # it is never set; waiting lets Ctrl-C through
    while True:
        for each in running:
            if not each.writing.waits:
                return each
        pause.wait(_POLL_S)
