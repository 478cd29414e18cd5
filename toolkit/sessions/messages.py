"""The messages that a worker and its driver exchange: plain values, checked when they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.processes.endings import FAILURES
from toolkit.schema import Attestation, Round


def pack(logits: NDArray[np.floating]) -> dict[str, Any]:
    """Return logits as plain values for the channel."""
    return {"logits": logits.tobytes(), "shape": list(logits.shape), "dtype": logits.dtype.str}


def unpack(packed: dict[str, Any]) -> NDArray[np.floating]:
    """Return the logits that `pack` packed.

    Raises:
        ValueError: They are not an array of floating-point numbers.
    """
    dtype = np.dtype(packed["dtype"])
    if not np.issubdtype(dtype, np.floating):
        raise ValueError(f"logits of dtype {dtype}, expected floating-point numbers")
    flat: NDArray[np.floating] = np.frombuffer(packed["logits"], dtype)
    return flat.reshape(packed["shape"])


def pack_images(images: NDArray[Any]) -> dict[str, object]:
    """Return raw samples `[N,...]` as arguments of a request."""
    return {"images": images.tobytes(), "shape": list(images.shape)}


def samples_of(images: bytes, shape: list[int], dtype: str) -> NDArray[Any]:
    """Return the raw samples that `pack_images` packed; `dtype` is that of the model's input."""
    return np.frombuffer(images, np.dtype(dtype)).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The worker's report after loading: settings read back, and times in seconds."""

    attestation: Attestation
    import_s: float
    load_s: float
    first_inference_s: float


def outcome_of(reply: Any) -> tuple[bool, Any]:
    """Return whether a reply reports a failure, and what it reports: its status, reason and
    traceback.

    Raises:
        ValueError: It is no reply.
    """
    kind, *content = reply
    if kind == "ok":
        (value,) = content
        return False, value
    status, reason, traceback = content
    if kind != "error" or status not in FAILURES:
        raise ValueError(f"neither a result nor a known failure: {status!r}")
    return True, (status, str(reason), str(traceback))


def round_of(found: Any) -> Round:
    """Return the times of a round.

    Raises:
        ValueError: They are not times.
    """
    samples_s = tuple(tuple(each / 1e9 for each in ns) for ns in found["samples_ns"])
    if not all(0 < each < float("inf") for stream in samples_s for each in stream):
        raise ValueError("times that are not positive")
    return Round(samples_s=samples_s, page_faults=found["page_faults"])
