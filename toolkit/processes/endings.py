"""The end of child processes: the error that it means, and how to enforce it."""

from __future__ import annotations

import contextlib
import signal

import psutil

from toolkit.errors import (
    Crashed,
    FailedRun,
    NotInstalled,
    OutOfMemory,
    TimedOut,
    Unsupported,
    WrongOutput,
)

FAILURES: dict[str, type[FailedRun]] = {
    kind.status: kind
    for kind in (Crashed, TimedOut, OutOfMemory, WrongOutput, NotInstalled, Unsupported)
}
"""The errors that a child process reports, by the status of a row."""

_STDERR_TAIL_LINES = 40
_EXIT_GRACE_S = 2.0


def exit_text(code: int) -> str:
    """Return `SIGSEGV` or `exit code 3`; a negative code is the signal that ended the process."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # real-time signals have no name
        return f"signal {-code}"


def tail_of(text: str) -> str:
    """Return the last lines of the output of a process."""
    return "\n".join(text.splitlines()[-_STDERR_TAIL_LINES:])


def joined(*parts: str) -> str:
    """Join the output of a process and its traceback, without empty parts."""
    return "\n".join(part for part in (each.strip("\n") for each in parts) if part)


def kill_tree(process: psutil.Process) -> None:
    """Kill a process and all its child processes; a running compiler would occupy a core."""
    with contextlib.suppress(psutil.Error):
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(timeout=_EXIT_GRACE_S)


def kill_children() -> None:
    """Kill all processes that this one has started, and theirs."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                each.kill()
