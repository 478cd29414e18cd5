"""The logits of many images, from one session, with progress.

In: a session and images. Out: logits. Images are sent in chunks that are small enough for progress
to be seen on slow models, and large enough to cost nothing on fast ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.data.images import Images
from toolkit.report.progress import Progress
from toolkit.sessions.remote import RemoteSession

_CHUNK_IMAGES = 1000
_CHUNK_BYTES = 8 << 20  # of raw pixels: 55 images of 3x224x224


def chunk_size(images: Images, batch_size: int) -> int:
    """Return how many images to send at a time: whole batches, and at least one."""
    image_bytes = max(1, int(np.prod(images.shape[1:])))
    most = min(_CHUNK_IMAGES, _CHUNK_BYTES // image_bytes)
    return max(1, most // batch_size) * batch_size


def predict_all(
    session: RemoteSession, dataset: Dataset, batch_size: int, label: str, progress: Progress
) -> NDArray[np.floating]:
    """Return logits `[N,K]` of the whole data set, `batch_size` images per call; `label` names the
    progress bar."""
    size = chunk_size(dataset.images, batch_size)
    progress(label, 0, len(dataset))
    parts: list[NDArray[np.floating]] = []
    done = 0
    for logits in session.predict(dataset.chunks(size), batch_size=batch_size):
        parts.append(logits)
        done += len(logits)
        progress(label, done, len(dataset), "images")
    return np.concatenate(parts)


class ImageCounter:
    """Counts the images of several steps in one progress bar of `total` images."""

    def __init__(self, label: str, total: int, progress: Progress) -> None:
        self._label, self._total, self._progress = label, total, progress
        self._done = 0
        progress(label, 0, total)

    def predict(
        self, session: RemoteSession, images: Images, batch_size: int
    ) -> NDArray[np.floating]:
        """Return logits `[n,K]` of raw images `[n,C,H,W]`, `batch_size` images per call."""
        size = chunk_size(images, batch_size)
        chunks = (images[start : start + size] for start in range(0, len(images), size))
        parts: list[NDArray[np.floating]] = []
        for logits in session.predict(chunks, batch_size=batch_size):
            parts.append(logits)
            self._done += len(logits)
            self._progress(self._label, self._done, self._total, "images")
        return np.concatenate(parts)
