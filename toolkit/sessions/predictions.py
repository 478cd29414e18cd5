"""The logits of a whole data set, from one session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.report.progress import Progress
from toolkit.sessions.remote import RemoteSession

_CHUNK_IMAGES = 1000


def predict_all(
    session: RemoteSession, dataset: Dataset, batch_size: int, label: str, progress: Progress
) -> NDArray[np.floating]:
    """Return logits `[N,K]` of the whole data set, `batch_size` images per call; `label` names the
    progress bar."""
    size = max(1, _CHUNK_IMAGES // batch_size) * batch_size
    progress(label, 0, len(dataset))
    parts: list[NDArray[np.floating]] = []
    done = 0
    for logits in session.predict(dataset.chunks(size), batch_size=batch_size):
        parts.append(logits)
        done += len(logits)
        progress(label, done, len(dataset), "images")
    return np.concatenate(parts)
