"""Standard input, output and error, whatever the caller has done to them.

Closed streams read and write nothing. A reader of the output that has gone is no error; a full disk
is one. Text that the terminal's encoding does not have is escaped.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

import click

from toolkit.errors import OutputError


def prepare_streams() -> None:
    """Open streams that are closed. Otherwise, the next files and pipes take their numbers, and
    child processes use them as their streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; opening a file takes the lowest free number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Print a result on stdout.

    Raises:
        OutputError: It cannot be written, but someone may be waiting for it.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise cannot_print(error) from error


def discard_output() -> None:
    """Write nothing more to stdout."""
    _discard(sys.stdout)


def cannot_print(error: OSError) -> OutputError:
    """Return the error of a result that nobody has seen."""
    return OutputError(
        f"cannot write to standard output: {error.strerror or error}; write it to another file "
        "system, or free disk space"
    )


def tell(text: str) -> None:
    """Print a line on stderr, if that is possible: the work goes on without."""
    try:
        click.echo(text, err=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Write to nowhere from now on: what is still in the buffer would fail again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
