"""One command at a time writes to a folder.

In: an output folder or file. Out: a lock on it, as long as the block runs. Whoever holds it also
deletes what a killed command left there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import OutputError, ToolkitWarning
from toolkit.files.reading import read_tail
from toolkit.files.scratch import note_incomplete, say_swept, sweep_beside
from toolkit.files.writing import as_output_error, make_folder
from toolkit.interruption import installed, uninterrupted

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".toolkit.lock"
# Processes that read images for a training end this long after a killed one, and hold its lock.
_PATIENCE_S = 10.0
_SHORT_S = 0.5  # not worth a message
_POLL_S = 0.1


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder, and keep other commands out of it; at the end, delete it if it is empty.

    Raises:
        OutputError: Another command writes to it, or it is not writable.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with _locked(folder / LOCK, folder):
            say_swept(sweep_beside(folder))
            yield
    finally:
        with contextlib.suppress(OSError):
            for each in new:
                each.rmdir()


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Keep other commands from writing the same file.

    Raises:
        OutputError: Another command writes it, or its folder is not writable.
    """
    with _locked(path.with_name(f".{path.name}.lock"), path):
        say_swept(sweep_beside(path.parent, path.name))
        yield


@contextmanager
def _locked(lock_path: Path, what: Path) -> Iterator[None]:
    from filelock import FileLock, UnixFileLock

    make_folder(lock_path.parent)
    lock = FileLock(lock_path, poll_interval=_POLL_S)
    try:
        with as_output_error(what):
            note_incomplete(lock_path)
            _acquire(lock, what)
            if isinstance(lock, UnixFileLock):  # else a file without content of its own
                lock_path.write_text(f"{os.getpid()}\t{_own_machine()}\t{_own_command()}\n")
        yield
    finally:
        with uninterrupted():
            if lock.is_locked:
                # A command that waits for this file notices, and creates a new one.
                lock_path.unlink(missing_ok=True)
                lock.release()


def _acquire(lock: BaseFileLock, what: Path) -> None:
    """Acquire the lock; wait a moment for a command that is ending.

    Raises:
        OutputError: The other command goes on.
    """
    from filelock import Timeout

    try:
        lock.acquire(timeout=_SHORT_S)
    except Timeout:
        holder = _holder(Path(lock.lock_file))
        warnings.warn(f"{what} is in use by {holder}; waiting", ToolkitWarning, stacklevel=2)
    else:
        return
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        raise OutputError(
            f"{what} is in use by {_holder(Path(lock.lock_file))}; wait until that has ended, or "
            "choose another place with --out"
        ) from error


def _own_command() -> str:
    program = Path(sys.argv[0]).name
    return " ".join(["toolkit", *sys.argv[1:2]]) if installed() else program or "python"


def _own_machine() -> str:
    """Return a checksum of the host's name: the file stays in an output folder after a kill, and
    must not name the host there."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _holder(lock_path: Path) -> str:
    """Return `process 123 (toolkit export)`, as far as the lock file says so."""
    with contextlib.suppress(OSError, ValueError):
        process, machine, command = read_tail(lock_path).strip().split("\t")
        place = "" if machine == _own_machine() else " of another machine"
        return f"process {int(process)}{place} ({command[:80]})"
    return "another process"
