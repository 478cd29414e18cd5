"""Watches the GPU while something runs on it.

In: a reader of its state. Out: the states before, meanwhile and after, in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from toolkit.machine.gpu_state import GpuReader
from toolkit.schema import GpuState

_EVERY_S = 0.04  # some two times in a round; a look takes the driver about a millisecond


@contextmanager
def watched(reader: GpuReader | None) -> Iterator[list[GpuState]]:
    """A list that is filled while the body runs; it stays empty without a reader.

    The looks come from a thread of this process, which has nothing else to do while it waits for
    the worker that is measured.
    """
    states: list[GpuState] = []
    if reader is None:
        yield states
        return
    states.append(reader.read())
    over = Event()
    thread = Thread(target=_look_on, args=(reader, states, over), name="gpu-watch")
    thread.start()
    try:
        yield states
    finally:
        over.set()
        thread.join()
        states.append(reader.read())


def _look_on(reader: GpuReader, states: list[GpuState], over: Event) -> None:
    while not over.wait(_EVERY_S):
        states.append(reader.read())
