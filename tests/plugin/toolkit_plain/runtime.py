"""The runtime: numpy computes the reference CNN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import FLOAT32, Attestation, Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load an `.npz` file."""
    with np.load(source.path, allow_pickle=False) as file:
        arrays = [file[name] for name in file.files]
    return PlainSession(arrays)


class PlainSession:
    """Weights and biases, by layer."""

    def __init__(self, arrays: list[NDArray[np.float32]]) -> None:
        self._arrays = arrays

    @property
    def attestation(self) -> Attestation:
        """Precision from the file's dtype; one thread, unless numpy's BLAS starts others."""
        return Attestation(
            runtime="plain",
            version="1.2.3",
            provider="cpu",
            device="cpu",
            precision="fp32",
            threads=1,
            arithmetic=FLOAT32,
            evidence={
                "provider": "by design",
                "precision": "from the file",
                "threads": "as asked",
                "arithmetic": "by design",
            },
        )

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        from toolkit_plain.engine import convolve, max_pool

        first, second, hidden, last = zip(self._arrays[::2], self._arrays[1::2], strict=True)
        features = max_pool(convolve(convolve(inputs, *first), *second))
        flat = features.reshape(len(inputs), -1)
        active = np.maximum(flat @ hidden[0].T + hidden[1], np.float32(0))
        logits: NDArray[np.float32] = active @ last[0].T + last[1]
        return logits
