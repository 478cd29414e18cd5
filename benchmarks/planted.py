"""A runtime for `detection.py`: ONNX Runtime, slower by a known share.

`source.model` holds the share. The additional time is spent computing in the calling thread, not
sleeping.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import Attestation, Inputs, Settings
from toolkit.sessions.runtimes import Session, Source, onnxruntime


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file."""
    return SlowedSession(onnxruntime.load(source, settings), float(source.model or 0))


class SlowedSession:
    """Each call takes `1 + share` times as long as the session's own."""

    def __init__(self, session: Session, share: float) -> None:
        self._session = session
        self._share = share

    @property
    def attestation(self) -> Attestation:
        """The attestation of the wrapped session."""
        return self._session.attestation

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Inputs `[N,C,H,W]` → logits `[N,K]`, followed by busy work."""
        start_ns = time.perf_counter_ns()
        logits = self._session.run(inputs)
        end_ns = start_ns + (time.perf_counter_ns() - start_ns) * (1 + self._share)
        while time.perf_counter_ns() < end_ns:
            pass
        return logits
