"""The null runtime: answers zeros at once, so its time is the harness's own cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import FLOAT32, Attestation, Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Nothing is loaded; the record alone says how many logits to answer."""
    return NullSession(source.artifact.classes, settings)


class NullSession:
    """Zeros `[N,K]` for anything."""

    def __init__(self, classes: int, settings: Settings) -> None:
        self._classes = classes
        self._threads = settings.threads
        self._device = settings.device

    @property
    def attestation(self) -> Attestation:
        """It runs nothing, on as many threads as you like."""
        return Attestation(
            runtime="null",
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

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → zeros `[N,K]`."""
        return np.zeros((len(inputs), self._classes), np.float32)
