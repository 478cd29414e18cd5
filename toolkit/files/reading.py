"""Safe reads of files that others may have made, and checksums.

In: paths. Out: bytes. Only regular files are read: a FIFO or a device may never answer, or never
end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO

RECORD_BYTES = 16 << 20
"""Size of the largest manifest or checkpoint record that is read; real ones have some kilobytes."""
RESULTS_BYTES = 256 << 20
"""Size of the largest results that are read; they contain every sample."""

_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path, *, within: Path | None = None) -> BinaryIO:
    """Open a regular file for reading. A symbolic link to one is followed.

    Args:
        path: The file.
        within: A folder that the file must be in, wherever links lead; None allows any place.

    Raises:
        OSError: Missing, not readable, outside `within`, or something else, such as a FIFO; its
            `strerror` says what it is.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if within is not None:
        path = _inside(path, within)
        flags |= os.O_NOFOLLOW
    _refuse_irregular(path.stat())  # before it is opened, because opening a device may act on it
    descriptor = os.open(path, flags)
    try:
        _refuse_irregular(os.fstat(descriptor))  # it may have been replaced since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, most_bytes: int | None = None, within: Path | None = None) -> bytes:
    """Return the bytes of a regular file; see `open_regular`.

    `most_bytes` limits its size; None is the memory of this machine.

    Raises:
        OSError: As for `open_regular`; or too large, or longer than the system says.
    """
    with open_regular(path, within=within) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        _refuse_large(size_bytes, memory_bytes() if most_bytes is None else most_bytes)
        try:
            content = file.read(size_bytes + 1)
        except MemoryError as error:
            text = f"its {size_bytes:,} bytes do not fit into memory"
            raise OSError(errno.ENOMEM, text) from error
    if len(content) > size_bytes:
        raise OSError(
            errno.EFBIG, f"it has more than the {size_bytes:,} bytes that the system reports"
        )
    return content


def read_json(path: Path, *, most_bytes: int = RECORD_BYTES, within: Path | None = None) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: As for `read_regular`.
        ValueError: Not JSON, or nested too deeply.
    """
    content = read_regular(path, most_bytes=most_bytes, within=within)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    except MemoryError as error:
        raise ValueError("its JSON does not fit into memory") from error


def read_tail(path: Path, *, most_bytes: int = 1 << 16, within: Path | None = None) -> str:
    """Return the last part of a text file, such as the log of another process.

    Raises:
        OSError: As for `open_regular`.
    """
    with open_regular(path, within=within) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        return file.read(most_bytes).decode(errors="replace")


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted.

    Raises:
        OSError: Not readable; or there is something else in it: a FIFO, a link that leaves it, a
            link to a folder.
    """
    waiting, found = [folder], []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if not {"\t", "\n"}.isdisjoint(entry.name):  # sha256_of separates names by them
                    text = f"{entry.name!r} in it: expected a name without tabs and line breaks"
                    raise OSError(errno.EINVAL, text)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    _check_inner(path, folder)
                    found.append(path)
    return sorted(found)


def sha256_of(path: Path, *, within: Path | None = None) -> str:
    """Return the SHA-256 in hex of the bytes of a file, or of the names and checksums in a folder.

    Raises:
        OSError: As for `open_regular` and `files_in`.
    """
    if path.is_dir():
        folder = path if within is None else _inside(path, within)
        digest = hashlib.sha256()
        for each in files_in(folder):
            line = f"\t{sha256_of(each, within=folder)}\n".encode()
            digest.update(os.fsencode(each.relative_to(folder).as_posix()) + line)
        return digest.hexdigest()
    with open_regular(path, within=within) as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """Return the SHA-256 in hex of the bytes of an open file, up to its size.

    Raises:
        OSError: It cannot be read, or is longer than the system says.
    """
    size_bytes, done, digest = os.fstat(file.fileno()).st_size, 0, hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        done += len(chunk)
        if done > size_bytes:
            raise OSError(
                errno.EFBIG, f"it has more than the {size_bytes:,} bytes that the system reports"
            )
        digest.update(chunk)
    return digest.hexdigest()


def size_of(path: Path, *, within: Path | None = None) -> int:
    """Return the size in bytes of a regular file, or of all files in a folder.

    Raises:
        OSError: As for `open_regular` and `files_in`.
    """
    if within is not None:
        path = _inside(path, within)
    if path.is_dir():
        return sum(each.stat().st_size for each in files_in(path))
    found = path.stat()
    _refuse_irregular(found)
    return found.st_size


def refuse_large(path: Path, *, within: Path | None = None) -> None:
    """Raise OSError as `size_of` does, or if a file or folder is larger than the memory: nothing
    could load it."""
    _refuse_large(size_of(path, within=within), memory_bytes())


def others_can_change(path: Path) -> bool:
    """Return whether another user, other than root, can replace a file or folder, or write to it.

    Raises:
        OSError: As for `files_in`.
    """
    inside = [path, *files_in(path)] if path.is_dir() else [path]
    folders = {path.parent, *(each.parent for each in inside[1:])}
    return any(_changeable(each) for each in inside) or any(
        _changeable(each, sticky=True) for each in folders
    )


def _changeable(path: Path, *, sticky: bool = False) -> bool:
    found = path.stat()
    if sticky and found.st_mode & stat.S_ISVTX:  # in it, only owners rename
        return False
    writable = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return writable or found.st_uid not in (os.geteuid(), 0)


def copy_files(path: Path, target: Path) -> None:
    """Copy the bytes of a file, or of all files in a folder, and nothing else of them.

    Raises:
        OSError: As for `open_regular` and `files_in`.
    """
    for each in files_in(path) if path.is_dir() else [path]:
        place = target if each == path else target / each.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(each) as file, place.open("wb") as copy:
            shutil.copyfileobj(file, copy)


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _inside(path: Path, folder: Path) -> Path:
    """Return the real path, without links.

    Raises:
        OSError: It is not in the folder.
    """
    real = Path(os.path.realpath(path))  # unlike resolve, it raises OSError for a circle of links
    if not real.is_relative_to(os.path.realpath(folder)):
        raise OSError(errno.EPERM, f"it is a link to {real}, outside {folder}; copy the file there")
    return real


def _check_inner(path: Path, folder: Path) -> None:
    try:
        _refuse_irregular(_inside(path, folder).stat())
    except OSError as error:
        text = f"{path.relative_to(folder)} in it: {error.strerror}"
        raise OSError(error.errno, text) from error


def _refuse_irregular(found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {what}, expected a regular file")


def _refuse_large(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        text = f"it has {size_bytes:,} bytes, expected at most {most_bytes:,}"
        raise OSError(errno.EFBIG, text)
