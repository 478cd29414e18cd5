"""Files that somebody could send: not files at all, links that lead elsewhere, small ones that
unpack to large ones."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

# What stands in a file's place → the words that the error must contain.
IRREGULAR = {"a FIFO": "it is a FIFO", "/dev/zero": "it is a device", "a folder": "it is a folder"}


def put_irregular(path: Path, kind: str) -> None:
    """Put something in place of a file that may never answer, never end, or is not a file."""
    path.unlink(missing_ok=True)
    makers: dict[str, Callable[[], None]] = {
        "a FIFO": lambda: os.mkfifo(path),
        "/dev/zero": lambda: path.symlink_to("/dev/zero"),
        "a folder": path.mkdir,
    }
    makers[kind]()


def move_out(path: Path, outside: Path) -> None:
    """Move a file out of its folder, and leave a link to it."""
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def large_file(path: Path, size_bytes: int) -> None:
    """Write a file that takes no space: all of its bytes are zero."""
    path.write_bytes(b"")
    os.truncate(path, size_bytes)


def idx_header(*shape: int) -> bytes:
    """The header of an IDX file of uint8 values."""
    return bytes([0, 0, 0x08, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def gzip_bomb(path: Path, header: bytes, size_bytes: int) -> None:
    """Write an IDX file of one thousandth of the size that it unpacks to, whatever its header
    says."""
    path.write_bytes(gzip.compress(header) + gzip.compress(bytes(size_bytes)))
