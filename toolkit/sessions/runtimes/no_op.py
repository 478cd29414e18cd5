"""The no-op runtime: returns zeros at once, so its time is the overhead of the harness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import FLOAT32, NO_OP, Attestation, Inputs, Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load nothing; the record says how many logits to return."""
    return NoOpSession(source.artifact.classes, settings)


class NoOpSession:
    """Returns zeros `[N,K]` for any input."""

    def __init__(self, classes: int, settings: Settings) -> None:
        self._classes = classes
        self._threads = settings.threads
        self._device = settings.device

    @property
    def attestation(self) -> Attestation:
        """Nothing runs, on any number of threads."""
        return Attestation(
            runtime=NO_OP,
            version=np.__version__,
            provider="none",
            device=self._device,
            precision="fp32",
            threads=self._threads,
            arithmetic=FLOAT32,
            evidence={
                "provider": "by design",
                "precision": "by design",
                "threads": "by design",
                "arithmetic": "by design",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → zeros `[N,K]`."""
        return np.zeros((len(inputs), self._classes), np.float32)
