"""The reference: the checkpoint's own logits in float64, and torch's float32 noise around them.

In: a subject and a data set. Out: a `parity.Reference`. torch has no fast float64 convolution, so
10,000 images take 10 to 20 s; the result is kept in the user's cache folder, under a key of all
that it depends on. A kept reference is used only if the checkpoint, run now, gives the same logits
on a sample of the images: a model factory is code, and code may change under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.allocator import can_keep_memory
from toolkit.candidates import EAGER, Subject, checkpoint_candidate
from toolkit.data import Dataset
from toolkit.errors import Crashed, OutputError
from toolkit.files import write_atomically
from toolkit.machine.environment import describe_environment
from toolkit.parity import Reference, noise_floor
from toolkit.progress import Progress, silent
from toolkit.schema import Precision, Settings, to_json
from toolkit.targets import RemoteSession, predict_all

_BATCH_SIZE = 50  # float64 intermediates of 100 images fall out of a small CPU's caches
_NOISE_IMAGES = 500
_NOISE_BATCH_SIZES = (1, 7, 100)
_SAMPLE_IMAGES = 50
_KEPT_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class ReferenceMaker:
    """Makes the reference of a subject on a data set; see `make`."""

    subject: Subject
    dataset: Dataset
    settings: Settings
    timeout_s: float
    progress: Progress = silent

    def make(self) -> Reference:
        """The kept reference if it still holds, else a new one.

        Always on the CPU: a device's own arithmetic is what is being judged. A model that fixes
        a dtype in its code has no float64 form; its float32 logits are the reference then.

        Raises:
            FailedRun: the checkpoint cannot be run.
        """
        path = self.path()
        kept = read_reference(path, self.dataset)
        if kept is not None and self._still_holds(kept):
            with contextlib.suppress(OSError):
                os.utime(path)
            count = len(self.dataset)
            self.progress(f"reference {kept.precision}", count, count, "images, kept")
            return kept
        try:
            reference = self._compute("fp64")
        except Crashed as failure:
            try:
                reference = self._compute("fp32")
            except Crashed:
                raise failure from None
        keep_reference(path, reference)
        return reference

    def path(self) -> Path:
        """Where this reference is kept: the name is a checksum of all that it depends on."""
        environment = describe_environment()
        checkpoint = self.subject.checkpoint
        parts = {
            "checkpoint": checkpoint.sha256,
            "model": to_json(checkpoint.model),
            "input": to_json(checkpoint.input),
            "dataset": to_json(self.dataset.record),
            "versions": environment.versions,
            "noise": [self.settings.threads, _NOISE_IMAGES, *_NOISE_BATCH_SIZES],
            "machine": [environment.machine, environment.cpu, *environment.isa],
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return _cache_folder() / f"{key}.npz"

    def _compute(self, precision: Precision) -> Reference:
        with self._session(precision, self.settings.threads) as session:
            label = f"reference {precision}"
            logits = predict_all(session, self.dataset, _BATCH_SIZE, label, self.progress)
        rows = _spread(len(self.dataset), _NOISE_IMAGES)
        return Reference(
            logits=logits.astype(np.float64, copy=False),
            labels=self.dataset.labels,
            noise_floor=noise_floor(logits[rows], list(self._float32_runs(rows))),
            precision=precision,
        )

    def _float32_runs(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.floating]]:
        """Eager float32 logits of the same images, over threads and batch sizes."""
        images = self.dataset.images[rows]
        for threads in sorted({1, self.settings.threads}):
            with self._session("fp32", threads) as session:
                for batch_size in _NOISE_BATCH_SIZES:
                    yield from session.predict([images], batch_size=batch_size)

    def _still_holds(self, kept: Reference) -> bool:
        rows = _spread(len(self.dataset), _SAMPLE_IMAGES)
        try:
            with self._session(kept.precision, self.settings.threads) as session:
                (logits,) = session.predict([self.dataset.images[rows]], batch_size=_BATCH_SIZE)
        except Crashed:
            return False
        tolerance = 1e-9 if kept.precision == "fp64" else 10 * kept.noise_floor
        return np.allclose(logits, kept.logits[rows], rtol=tolerance, atol=tolerance)

    def _session(self, precision: Precision, threads: int) -> RemoteSession:
        settings = replace(
            self.settings, device="cpu", threads=threads, keep_memory=can_keep_memory()
        )
        candidate = checkpoint_candidate(self.subject, EAGER, settings, precision=precision)
        return RemoteSession(candidate, batch_size=_BATCH_SIZE, timeout_s=self.timeout_s)


def _spread(count: int, wanted: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(wanted, count)).astype(np.intp)


def _cache_folder() -> Path:
    """The user's cache folder, as the XDG base directory specification has it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "toolkit" / "references"


def read_reference(path: Path, dataset: Dataset) -> Reference | None:
    """The reference kept in `path`; None where there is none, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            logits, floor, precision = file["logits"], file["noise_floor"], str(file["precision"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if logits.dtype != np.float64 or logits.ndim != 2 or len(logits) != len(dataset):
        return None
    return Reference(
        logits=logits,
        labels=dataset.labels,
        noise_floor=float(floor),
        precision="fp64" if precision == "fp64" else "fp32",
    )


def keep_reference(path: Path, reference: Reference) -> None:
    """Keep a reference for the next time, and let go of the longest unused ones.

    A cache that cannot be written costs time, not the verdict.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        logits=reference.logits,
        noise_floor=np.float64(reference.noise_floor),
        precision=np.str_(reference.precision),
    )
    with contextlib.suppress(OutputError, OSError):
        write_atomically(path, buffer.getvalue())
        kept = sorted(path.parent.glob("*.npz"), key=lambda each: -each.stat().st_mtime)
        total = 0
        for each in kept:
            total += each.stat().st_size
            if total > _KEPT_BYTES and each != path:
                each.unlink(missing_ok=True)
