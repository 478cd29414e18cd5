"""Atomic writes: a file is written completely or not at all.

In: bytes. Out: files. An existing file is unchanged until the final rename.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import OutputError
from toolkit.files.scratch import note_incomplete, remove_tree
from toolkit.interruption import uninterrupted


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: A file is in the way, or the location is not writable.
    """
    with as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Check, before minutes of work, that a file can be written at its end.

    Raises:
        OutputError: `path` is a folder, or its parent is not writable.
    """
    with as_output_error(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with scratch_folder(path.parent):
        pass


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: write a temporary file next to it, fsync, rename.

    Raises:
        OutputError: Not writable, or the disk is full; `path` is unchanged.
    """
    # File names may hold bytes that are no text.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    make_folder(path.parent)
    with uninterrupted(), as_output_error(path):
        part = path.parent / f".{path.name}.{_random()}.part"
        note_incomplete(part)  # before it exists: a killed process leaves nothing unknown
        try:
            with open(part, "xb", opener=_for_this_user) as file:
                file.write(data)
            publish(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _random() -> str:
    """Return random characters for a name that `toolkit.files.scratch` recognises as incomplete."""
    return secrets.token_hex(4)


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file or folder to `path`, with the permissions of new files.

    The bytes are on disk before the rename. After a power cut, `path` is the old file or the new
    one, never an empty one. An existing folder is first moved next to `temporary`; if the process
    is killed at that moment, neither folder is at `path`.

    Raises:
        OutputError: The disk is full, or `path` is of the other kind (file or folder); `path` is
            unchanged.
    """
    umask = os.umask(0)
    os.umask(umask)
    with uninterrupted(), as_output_error(path):
        for each in [*temporary.rglob("*"), temporary]:
            each.chmod((0o777 if each.is_dir() else 0o666) & ~umask)
            _sync(each)
        if temporary.is_dir() and path.is_dir():
            path.rename(temporary.with_name(f"{temporary.name}.old"))
        temporary.replace(path)
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> bool:
    """Remove a file; return whether there was one.

    Raises:
        OutputError: It cannot be removed.
    """
    with as_output_error(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON, atomically. NaN and infinity are refused, because they are not JSON."""
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Create a temporary folder inside `beside`, on the same file system, and delete it at the
    end."""
    make_folder(beside)
    folder = None
    try:
        with uninterrupted(), as_output_error(beside):
            folder = beside / f".part-{_random()}"
            note_incomplete(folder)  # before it exists: a killed process leaves nothing unknown
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        with uninterrupted():
            if folder is not None:
                remove_tree(folder)


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free disk space, or choose "
            "another folder with --out"
        ) from error
