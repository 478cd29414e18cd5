"""Files on disk: checksums, and writes that are whole or did not happen.

In: bytes and paths. Out: files; whatever stood there before is untouched until the rename.
"""

from __future__ import annotations

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
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: a file stands in the way, or the place is not writable.
    """
    with _as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)


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
    """Rename a finished temporary file onto `path`, with the permissions a new file has.

    The bytes are on disk before the name is: after a power cut the name is the old file or the
    new one, never an empty one.

    Raises:
        OutputError: disk full, or a folder stands in the way; `path` is as it was.
    """
    umask = os.umask(0)
    os.umask(umask)
    with _as_output_error(path):
        temporary.chmod(0o666 & ~umask)
        _sync(temporary)
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
