"""References on disk: a folder of the user's caches.

In: references. Out: the same, in a later process; None if the file is damaged.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.errors import OutputError
from toolkit.files import read_regular, write_atomically
from toolkit.files.locks import locked_folder
from toolkit.parity.reference import Reference, References
from toolkit.parity.special import checksum
from toolkit.schema import Precision

_KEPT_BYTES = 512 << 20


def cache_folder() -> Path:
    """Return the folder for references: `$XDG_CACHE_HOME/toolkit/references`, or the folder that
    this system uses for caches."""
    return Path(platformdirs.user_cache_path("toolkit")) / "references"


def read_references(path: Path, dataset: Dataset, special: NDArray[np.uint8]) -> References | None:
    """Return the references kept in `path`; None if there are none, or they are damaged."""
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        precision: Precision = "fp64" if str(kept["precision"]) == "fp64" else "fp32"
        data = Reference(
            logits=kept["logits"],
            labels=dataset.labels,
            floors=kept["floors"],
            precision=precision,
        )
        logits = kept["special_logits"]
        found = References(
            data=data,
            special=Reference(
                logits=logits,
                labels=logits.argmax(1).astype(np.int64),
                floors=kept["special_floors"],
                precision=precision,
            ),
            special_images=special[kept["special_rows"]],
            special_rows=kept["special_rows"],
        )
    except Exception:  # noqa: BLE001 - numpy raises various exceptions for damaged bytes
        return None
    right = data.logits.dtype == np.float64 and data.logits.ndim == 2
    if not right or len(data.logits) != len(dataset) or len(data.floors) != len(dataset):
        return None
    return found if checksum(found.special_images) == str(kept["special_sha256"]) else None


def keep_references(path: Path, found: References) -> None:
    """Keep references for later runs, and delete the ones that were unused for the longest time.

    If the cache cannot be written, this costs time but does not change the verdict.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        logits=found.data.logits,
        floors=found.data.floors,
        special_logits=found.special.logits,
        special_floors=found.special.floors,
        special_rows=found.special_rows,
        special_sha256=np.str_(checksum(found.special_images)),
        precision=np.str_(found.data.precision),
    )
    with contextlib.suppress(OutputError, OSError):
        with locked_folder(path.parent):
            write_atomically(path, buffer.getvalue())
        kept = sorted(path.parent.glob("*.npz"), key=lambda each: -each.stat().st_mtime)
        total = 0
        for each in kept:
            total += each.stat().st_size
            if total > _KEPT_BYTES and each != path:
                each.unlink(missing_ok=True)
