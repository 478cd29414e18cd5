"""Signals that end a command: SIGHUP, SIGINT, SIGQUIT and SIGTERM.

In: a signal. Out: an exception in the main thread, whose `finally` blocks end child processes and
delete incomplete files, and the exit code 128 + the signal's number. Before and after that, when
there is nothing to clean up, a signal ends the process at once.

This module is imported before anything else, so it imports little.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130  # the exit code of Ctrl-C
_NAMES = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGALRM")  # the last one is our own reminder
_AGAIN_S = 1.0
_MESSAGE = b"Error: interrupted\n"


class Stop(KeyboardInterrupt):
    """A signal asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _Signals:
    """What this process does on a signal."""

    def __init__(self) -> None:
        self.process: int | None = None  # of the command; not of processes that it forks
        self.received: int | None = None
        self.raises = False  # otherwise, a signal ends the process at once
        self.postponed = 0  # depth of the blocks that must not be interrupted

    def handle(self, number: int, frame: FrameType | None) -> None:
        """End the process, raise `Stop`, or leave that to the end of a block."""
        if os.getpid() != self.process:
            os._exit(128 + number)
        if number != signal.SIGALRM:
            self.received = self.received or number
            if not self.raises:
                _write(_MESSAGE)
                os._exit(128 + number)
        if self.raises:
            self.stop()

    def stop(self) -> None:
        """Raise `Stop`, unless a block postpones it, or it is being handled."""
        if self.received is None or self.postponed or _stop_in(sys.exception()) is not None:
            return
        # Libraries swallow exceptions now and then, for instance in the middle of an import or in
        # a destructor. So it is raised again until a handler is at work.
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        raise Stop(self.received)


_signals = _Signals()


def end_at_once() -> None:
    """From now on, a signal ends this process at once: nothing needs to be cleaned up yet.

    Signals that are ignored remain so, as under `nohup` or in the background of a shell. Under
    torchrun, nothing changes: it sends SIGTERM to processes that wait for each other.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    _signals.process = os.getpid()
    chosen = [each for each in signal.Signals if each.name in _NAMES]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, chosen)  # one that comes now waits
    for each in chosen:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _signals.handle)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def installed() -> bool:
    """Whether this process is a command, which handles signals; not a program that imports the
    toolkit."""
    return _signals.process is not None


def received() -> int | None:
    """Return the first signal that asked this command to end."""
    return _signals.received


@contextmanager
def signals_raised(cleanup: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside, a signal raises `Stop`. Later signals are ignored while that exception passes, so
    that nothing interrupts the cleanup.

    `cleanup` is called at the end, without interruption. After it, a signal ends the process at
    once.
    """
    _signals.raises = installed()
    try:
        yield
    finally:
        _signals.postponed += 1  # also for a signal whose `Stop` was handled
        if installed():
            signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            cleanup()
        finally:
            _signals.postponed -= 1
            _signals.raises = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Postpone signals to the end of a short block that acquires or releases something, or writes
    a file."""
    if not _signals.raises or not _in_main_thread():
        yield
        return
    _signals.postponed += 1
    try:
        yield
    finally:
        _signals.postponed -= 1
        _signals.stop()


def exit_code_of(stop: BaseException) -> int:
    """Return 128 + the number of the signal behind an interruption; that of Ctrl-C if unknown."""
    found = _stop_in(stop)
    return INTERRUPTED if found is None else 128 + found.number


def _stop_in(error: BaseException | None) -> Stop | None:
    """Return the `Stop` that is being handled: `error`, its cause, or what it replaced."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Stop):
            return each
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            waiting += [each.__cause__, each.__context__]
    return None


def _in_main_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def _write(text: bytes) -> None:
    with suppress(OSError):
        os.write(2, text)
