"""Temporary folders with an owner, so that a command can delete those that a killed one left.

A process holds a lock on each of its folders; the kernel releases it when the process ends, however
it ends. A folder of this user whose lock is free has no owner. A journal in such a folder lists the
incomplete files and the locks of its process in other places.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import OutputError, ToolkitWarning
from toolkit.files.reading import read_regular
from toolkit.interruption import uninterrupted

_PREFIX, _SUFFIX = "toolkit-", ".scratch"
_JOURNAL = "incomplete"
_RANDOM = r"[a-z0-9_]{8}"  # of the tempfile module
_LOCK = re.compile(r"\..+\.lock", re.DOTALL)
_MOST_LOCK_BYTES = 1000
_INCOMPLETE = re.compile(rf"\.part-{_RANDOM}|\..+\.{_RANDOM}\.part", re.DOTALL)


class ScratchFolder:
    """A folder of this process inside the temporary folder, until `remove` or the process's end."""

    def __init__(self, purpose: str) -> None:
        """
        Raises:
            OutputError: It cannot be created.
        """
        with uninterrupted(), as_temporary_error():
            # Its lock comes before the name that others look for: nobody finds it without an owner.
            hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}{purpose}-"))
            self.path = hidden.with_name(f"{hidden.name[1:]}{_SUFFIX}")
            self._lock: int | None = os.open(hidden, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: it is never swept
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self.path)
            self._process = os.getpid()
            _owned.append(self)

    def remove(self) -> None:
        """Delete the folder and what is in it."""
        with uninterrupted():
            if self._lock is None or self._process != os.getpid():  # a process that was forked
                return
            remove_tree(self.path)
            os.close(self._lock)
            self._lock = None
            _owned.remove(self)


_owned: list[ScratchFolder] = []


@atexit.register
def remove_all() -> None:
    """Delete all folders of this process: it ends."""
    for each in list(_owned):
        each.remove()


def remove_tree(folder: Path) -> None:
    """Delete a folder and what is in it, as far as this user may.

    Unlike `shutil.rmtree`, it does not recurse: a child process may leave folders that are nested
    deeper than Python's stack and longer than the longest path. They are moved up one by one.
    """
    with contextlib.suppress(OSError):
        while entries := list(os.scandir(folder)):
            for entry in entries:
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink()
                    continue
                path.chmod(0o700)
                for inner in list(os.scandir(path)):
                    Path(inner.path).rename(folder / uuid.uuid4().hex)
                path.rmdir()
        folder.rmdir()


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Create a folder inside the temporary folder, and delete it at the end.

    Raises:
        OutputError: It cannot be created.
    """
    folder = ScratchFolder(purpose)
    try:
        yield folder.path
    finally:
        folder.remove()


class _Journal:
    """The incomplete files and folders of this process."""

    def __init__(self) -> None:
        self._folder: ScratchFolder | None = None
        self._process: int | None = None

    def add(self, path: Path) -> None:
        """Note a path. If that is impossible, only a later command misses it."""
        with contextlib.suppress(OSError, OutputError):
            if self._folder is None or self._process != os.getpid():
                self._folder, self._process = ScratchFolder("journal"), os.getpid()
            with (self._folder.path / _JOURNAL).open("ab") as file:
                file.write(os.fsencode(path.absolute()) + b"\0")


_journal = _Journal()


def note_incomplete(path: Path) -> None:
    """Remember an incomplete file or folder, in case that this process is killed."""
    _journal.add(path)


def sweep() -> list[Path]:
    """Delete what killed processes of this user left behind; return the paths."""
    found: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                found += _sweep_folder(Path(entry.path))
    return found


def sweep_beside(folder: Path, name: str | None = None) -> list[Path]:
    """Delete incomplete files in an output folder that no other command uses; return the paths.

    With the `name` of a file, only its own.
    """
    start = f".{name}." if name is not None else "."
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        paths = [Path(each.path) for each in entries if each.name.startswith(start)]
        return [path for path in paths if _remove_incomplete(path)]
    return []


def say_swept(paths: list[Path]) -> None:
    """Warn about what was deleted."""
    if paths:
        names = ", ".join(map(str, paths[:3]))
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        warnings.warn(
            f"deleted what a killed command had left behind: {names}{more}",
            ToolkitWarning,
            stacklevel=2,
        )


def _sweep_folder(folder: Path) -> list[Path]:
    """Delete the folder, and the files in its journal, if its owner is gone."""
    with contextlib.suppress(OSError):
        status = folder.lstat()
        if status.st_uid != os.geteuid():
            return []
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or it has an owner
            found = []
            # Elsewhere, a child process may have written a file of this name.
            has_journal = folder.name.startswith(f"{_PREFIX}journal-")
            with contextlib.suppress(FileNotFoundError):
                content = read_regular(folder / _JOURNAL, within=folder) if has_journal else b""
                paths = [Path(os.fsdecode(line)) for line in content.split(b"\0")[:-1]]
                found = [path for path in paths if _remove_incomplete(path) or _remove_lock(path)]
            remove_tree(folder)
            return found if has_journal else [folder]
        finally:
            os.close(descriptor)
    return []


def _remove_incomplete(path: Path) -> bool:
    """Delete the path if it is an incomplete file or folder of this user."""
    if not _INCOMPLETE.fullmatch(path.name):
        return False
    with contextlib.suppress(OSError):
        if path.lstat().st_uid != os.geteuid():
            return False
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
        return True
    return False


def _remove_lock(path: Path) -> bool:
    """Delete the lock file of a killed process of this user, unless another command holds it."""
    if not _LOCK.fullmatch(path.name):
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or status.st_size > _MOST_LOCK_BYTES:
                return False
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
        finally:
            os.close(descriptor)
    return False


@contextmanager
def as_temporary_error() -> Iterator[None]:
    """Turn an OSError of the block, which writes temporary files, into an OutputError."""
    try:
        yield
    except OSError as error:
        # Python's text lists all the places that it tried.
        place = "" if error.errno == errno.ENOENT else f" {tempfile.gettempdir()}"
        raise OutputError(
            f"cannot write to the temporary folder{place}: {error.strerror or error}; free disk "
            "space, or set TMPDIR to a folder that can be written"
        ) from error
