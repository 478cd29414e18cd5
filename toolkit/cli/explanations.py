"""Errors as one line and an exit code.

In: an exception. Out: the text for people, and the exit code. Limits that the caller or the system
has set are named, with the command that raises them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from toolkit.errors import ToolkitError, headline

_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "bad_alloc",
)
_NO_THREAD = ("can't start new thread", "thread creation failed", "pthread_create")


def explained(error: Exception) -> tuple[str, int]:
    """Return what to tell the user, and the exit code."""
    if isinstance(error, ToolkitError):
        return str(error), error.exit_code
    for each in _chain(error):
        advice = _advice(each)
        if advice is not None:
            return f"{headline(each)}; {advice}", 3
    return f"internal error: {type(error).__name__}: {error}; run again with --debug", 3


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _advice(error: BaseException) -> str | None:
    """Return what helps against a limit of this process or system; None if it was none."""
    code = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if isinstance(error, MemoryError) or code == errno.ENOMEM or _names(text, _NO_MEMORY):
        return f"out of memory: free memory{_limit('RLIMIT_AS', 'ulimit -v', 1024)}"
    if code in (errno.EMFILE, errno.ENFILE):
        return f"close other programs{_limit('RLIMIT_NOFILE', 'ulimit -n')}"
    if code == errno.EAGAIN or _names(text, _NO_THREAD):
        return f"end other processes{_limit('RLIMIT_NPROC', 'ulimit -u')}"
    if code == errno.EFBIG:
        return f"choose another file system{_limit('RLIMIT_FSIZE', 'ulimit -f', 1024)}"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free disk space, or set TMPDIR to another folder"
    return None


def _names(text: str, signs: tuple[str, ...]) -> bool:
    return any(each in text for each in signs)


def _limit(name: str, command: str, unit: int = 1) -> str:
    """Return advice about a limit, if there is one."""
    import resource  # not on every system that shows the help

    value = resource.getrlimit(getattr(resource, name))[0]
    if value == resource.RLIM_INFINITY:
        return ""
    return f", or raise the limit: {command} is {value // unit}"
