"""Files in the IDX format of MNIST: bytes on disk → numpy arrays.

In: files `*-idx1-ubyte`, `*-idx3-ubyte` or `*-idx4-ubyte`, plain or `.gz`. Out: uint8 arrays.
Layout: two zero bytes, a type byte, the number of dimensions, each dimension as a big-endian
uint32, then the values, last index fastest. Source: http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.errors import DatasetError
from toolkit.files import open_regular, sha256_of_open

_MAGIC_BYTES = 4
_UINT8 = 0x08
_TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}
_MOST_UNPACKED = 1032  # bytes that deflate can make of one: https://zlib.net/zlib_tech.html
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """`values` as read (memory-mapped if the file is uncompressed), and the checksum of the
    uncompressed bytes."""

    values: NDArray[np.uint8]
    sha256: str


def read_idx(path: Path, *, dimensions: tuple[int, ...]) -> IdxFile:
    """Read one IDX file; its number of dimensions must be one of `dimensions`.

    Of a compressed file, no more is unpacked than its header announces.

    Raises:
        DatasetError: Missing, not a regular file, not IDX, not uint8, other dimensions, truncated,
            too long, or too large for the memory.
    """
    try:
        with open_regular(path) as file:
            unpack = _unpacked if path.suffix == ".gz" else _mapped
            return unpack(path, file, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path}: incomplete gzip file ({error}); download or copy it again"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error


def _unpacked(path: Path, packed: BinaryIO, dimensions: tuple[int, ...]) -> IdxFile:
    packed_bytes = os.fstat(packed.fileno()).st_size
    with gzip.GzipFile(fileobj=packed) as file:
        head = file.read(_MAGIC_BYTES)
        head += file.read(4 * head[-1]) if len(head) == _MAGIC_BYTES else b""
        shape = _shape(path, head, dimensions)
        count = math.prod(shape)
        if count > packed_bytes * _MOST_UNPACKED or count > psutil.virtual_memory().available:
            raise DatasetError(
                f"{path}: its header announces {count:,} bytes for shape {list(shape)}, more than "
                f"its {packed_bytes:,} compressed bytes can hold, or than fit into memory; "
                "download or copy it again"
            )
        values = np.empty(count, np.uint8)
        digest, done = hashlib.sha256(head), 0
        while chunk := file.read(min(_CHUNK_BYTES, count + 1 - done)):
            if done + len(chunk) > count:
                raise _wrong_size(path, shape, f"more than {len(head) + count}", len(head) + count)
            values[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            digest.update(chunk)
            done += len(chunk)
    _check_size(path, shape, len(head) + done, len(head) + count)
    return IdxFile(values=values.reshape(shape), sha256=digest.hexdigest())


def _mapped(path: Path, file: BinaryIO, dimensions: tuple[int, ...]) -> IdxFile:
    head = file.read(_MAGIC_BYTES)
    head += file.read(4 * head[-1]) if len(head) == _MAGIC_BYTES else b""
    shape = _shape(path, head, dimensions)
    size_bytes = os.fstat(file.fileno()).st_size
    _check_size(path, shape, size_bytes, len(head) + math.prod(shape))
    values = np.memmap(file, np.uint8, mode="r", offset=len(head), shape=shape)
    return IdxFile(values=values, sha256=sha256_of_open(file))


def _shape(path: Path, head: bytes, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in a header."""
    if len(head) < _MAGIC_BYTES or head[:2] != b"\0\0" or head[2] not in _TYPES:
        raise DatasetError(
            f"{path}: not an IDX file: magic number 0x{head[:4].hex() or '(empty)'}, expected "
            + " or ".join(f"0x{_UINT8 << 8 | n:08x}" for n in dimensions)
        )
    if head[2] != _UINT8:
        raise DatasetError(
            f"{path}: holds {_TYPES[head[2]]} values, expected uint8 pixels or labels"
        )
    if head[3] not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise DatasetError(f"{path}: has {head[3]} dimensions, expected {wanted}")
    if len(head) < _MAGIC_BYTES + 4 * head[3]:
        raise DatasetError(f"{path}: truncated in its header; download or copy it again")
    return struct.unpack_from(f">{head[3]}I", head, _MAGIC_BYTES)


def _check_size(path: Path, shape: tuple[int, ...], size_bytes: int, expected: int) -> None:
    if size_bytes != expected:
        raise _wrong_size(path, shape, str(size_bytes), expected)
    if 0 in shape:
        raise DatasetError(f"{path}: shape {list(shape)} holds no values")


def _wrong_size(path: Path, shape: tuple[int, ...], found: str, expected: int) -> DatasetError:
    return DatasetError(
        f"{path}: {found} bytes, expected {expected} for shape {list(shape)}; the file is "
        "truncated or its count is wrong: download or copy it again"
    )
