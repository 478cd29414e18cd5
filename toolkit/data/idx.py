"""Reader of the IDX file format of MNIST: bytes on disk → numpy array.

In: a file `*-idx1-ubyte`, `*-idx3-ubyte` or `*-idx4-ubyte`, plain or `.gz`. Out: uint8 array.
Layout: two zero bytes, a type byte, the number of dimensions, each dimension as a big-endian
uint32, then the values, last index fastest. Source: http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DatasetError
from toolkit.files import sha256_of

_UINT8 = 0x08
_TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """`values` as read (memory-mapped if the file is uncompressed), and the checksum of the
    uncompressed bytes."""

    values: NDArray[np.uint8]
    sha256: str


def read_idx(path: Path, *, dimensions: tuple[int, ...]) -> IdxFile:
    """Read one IDX file; its number of dimensions must be one of `dimensions`.

    Raises:
        DatasetError: Missing, not IDX, not uint8, other dimensions, truncated or too long.
    """
    try:
        if path.suffix == ".gz":
            return _from_bytes(path, gzip.decompress(path.read_bytes()), dimensions)
        return _mapped(path, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path}: incomplete gzip file ({error}); download or copy it again"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error


def _from_bytes(path: Path, data: bytes, dimensions: tuple[int, ...]) -> IdxFile:
    shape, offset = _header(path, data[:64], len(data), dimensions)
    values = np.frombuffer(data, np.uint8, offset=offset).reshape(shape)
    return IdxFile(values=values, sha256=hashlib.sha256(data).hexdigest())


def _mapped(path: Path, dimensions: tuple[int, ...]) -> IdxFile:
    with path.open("rb") as file:
        head = file.read(64)
    shape, offset = _header(path, head, path.stat().st_size, dimensions)
    values = np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape)
    return IdxFile(values=values, sha256=sha256_of(path))


def _header(
    path: Path, head: bytes, size_bytes: int, dimensions: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:
    """Return the shape, and the offset of the first value."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
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
    offset = 4 + 4 * head[3]
    if len(head) < offset:
        raise DatasetError(f"{path}: truncated in its header; download or copy it again")
    shape = struct.unpack(f">{head[3]}I", head[4:offset])
    expected = offset + math.prod(shape)
    if size_bytes != expected:
        raise DatasetError(
            f"{path}: {size_bytes} bytes, expected {expected} for shape {list(shape)}; "
            "the file is truncated or its count is wrong: download or copy it again"
        )
    if 0 in shape:
        raise DatasetError(f"{path}: shape {list(shape)} holds no values")
    return shape, offset
