"""Files on disk: checksums, and writes that are whole or did not happen.

In: bytes and paths. Out: files; whatever stood there before is untouched until the rename.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import OutputError

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 in hex: of a file's bytes; of a folder, of its files' names and checksums."""
    digest = hashlib.sha256()
    if path.is_dir():
        for each in _files_in(path):
            digest.update(f"{each.relative_to(path).as_posix()}\t{sha256_of(each)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (_files_in(path) if path.is_dir() else [path]))


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: a file stands in the way, or the place is not writable.
    """
    with _as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Raise, before work of minutes, what would keep a file from being written there at its end.

    Raises:
        OutputError: a folder stands there, or its place is not writable.
    """
    with _as_output_error(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with scratch_folder(path.parent):
        pass


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: temporary file beside it, fsync, rename.

    Raises:
        OutputError: not writable or disk full; `path` is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    make_folder(path.parent)
    with _as_output_error(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            publish(Path(name), path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file or folder onto `path`, with the permissions new ones have.

    The bytes are on disk before the name is: after a power cut the name is the old file or the
    new one, never an empty one. A folder that stands there moves beside `temporary` first: killed
    just then, neither stands at `path`.

    Raises:
        OutputError: disk full, or something of the other kind stands in the way; `path` is as it
            was.
    """
    umask = os.umask(0)
    os.umask(umask)
    with _as_output_error(path):
        for each in [*temporary.rglob("*"), temporary]:
            each.chmod((0o777 if each.is_dir() else 0o666) & ~umask)
            _sync(each)
        if temporary.is_dir() and path.is_dir():
            path.rename(temporary.with_name(f"{temporary.name}.old"))
        temporary.replace(path)
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder inside `beside`, on the same file system, gone at the end."""
    make_folder(beside)
    with _as_output_error(beside):
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; "
            "free space or choose another folder with --out"
        ) from error
