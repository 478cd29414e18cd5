"""Records the state of the GPU while something runs on it.

In: a reader of the state. Out: the states before, during and after the run, in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from toolkit.machine.gpu_state import GpuReader
from toolkit.schema import GpuState

_EVERY_S = 0.04  # about twice per round; a reading takes the driver about a millisecond


@contextmanager
def watched(reader: GpuReader | None) -> Iterator[list[GpuState]]:
    """Yield a list that is filled while the body runs; it stays empty without a reader.

    A thread of this process takes the readings. The process is otherwise idle, because it waits for
    the measured worker.
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
