"""The reference: the checkpoint's logits in float64, and PyTorch's float32 noise around them.

In: a subject and a data set. Out: `parity.reference.References`. PyTorch has no fast float64
convolution, so 10,000 images take 10 to 20 s. The result is kept in the user's cache folder, under
a key of everything that it depends on. A kept reference is used only if the checkpoint gives the
same logits on a sample of the images now: a model factory is code, and code may change under the
same name.

The reference must depend on the image alone. If float64 logits change between calls, or with the
other images of the batch, the checkpoint is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.errors import CheckpointError, Crashed, FailedRun
from toolkit.machine.allocator import can_keep_memory
from toolkit.machine.environment import describe_environment
from toolkit.parity.gates import MAX_FLOORS
from toolkit.parity.kept_references import cache_folder, keep_references, read_references
from toolkit.parity.reference import Reference, References, distances, noise_floors, scales, unclear
from toolkit.parity.special import equal_positions, special_images
from toolkit.processes.numerics import PINNED_ENVIRONMENT, kernel_environment
from toolkit.report.progress import Progress, silent
from toolkit.schema import EAGER, Precision, Settings, to_json
from toolkit.sessions.candidates import Subject, checkpoint_candidate
from toolkit.sessions.predictions import ImageCounter, predict_all
from toolkit.sessions.remote import RemoteSession

_VERSION = 7  # of the content, and of how it is computed
_BATCH_SIZE = 50  # float64 intermediates of 100 images do not fit into a small CPU's caches
_OTHER_BATCH_SIZE = 7
_SAMPLED_IMAGES = 500
_FLOAT32_BATCH_SIZE = 100
_ORDERED_SUMS = "sums:ordered"  # a variant of eager PyTorch
_ORDERED_BATCH_SIZE = 33
_LEAST_SINGLE = 20  # images that are computed one at a time, in one thread
_KEPT_SAMPLE_IMAGES = 50
_SAME: dict[Precision, float] = {"fp64": 1e-9, "fp32": 1e-4}  # relative to the scale of the logits
_MOST_UNLIKE = 0.01  # share of sampled images that rounding alone may move further
_MOST_UNCLEAR = 0.5


@dataclass(frozen=True, kw_only=True)
class ReferenceMaker:
    """Makes the reference of a subject on a data set; see `make`."""

    subject: Subject
    dataset: Dataset
    settings: Settings
    timeout_s: float
    progress: Progress = silent

    def make(self) -> References:
        """Return the kept reference if it is still valid, otherwise a new one.

        It is always computed on the CPU, because the arithmetic of other devices is under test. If
        a model fixes a dtype in its code, it cannot run in float64; its float32 logits are then the
        reference.

        Raises:
            FailedRun: The checkpoint cannot be run.
            CheckpointError: Its logits cannot be a reference: NaN, random, or not of the image
                alone.
        """
        special = special_images(self.dataset.images, self.dataset.labels)
        path = self.path()
        kept = read_references(path, self.dataset, special)
        if kept is not None and self._still_holds(kept.data):
            with contextlib.suppress(OSError):
                os.utime(path)
            count = len(self.dataset)
            self.progress(f"reference {kept.data.precision}", count, count, "images, kept")
            return kept
        try:
            found = self._compute("fp64", special)
        except Crashed as failure:
            try:
                found = self._compute("fp32", special)
            except Crashed:
                raise failure from None
        keep_references(path, found)
        return found

    def path(self) -> Path:
        """Return the path of this reference. Its name is a checksum of everything that it depends
        on."""
        environment = describe_environment()
        checkpoint = self.subject.checkpoint
        parts = {
            "version": _VERSION,
            "checkpoint": checkpoint.sha256,
            "model": to_json(checkpoint.model),
            "input": to_json(checkpoint.input),
            "dataset": to_json(self.dataset.record),
            "versions": environment.versions,
            "threads": self.settings.threads,
            "kernels": {**PINNED_ENVIRONMENT, **kernel_environment()},
            "machine": [environment.machine, environment.cpu, *environment.isa],
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return cache_folder() / f"{key}.npz"

    def _compute(self, precision: Precision, special: NDArray[np.uint8]) -> References:
        """Compute float64 logits, twice on a sample, and the float32 logits around them."""
        sample = _spread(len(self.dataset), _SAMPLED_IMAGES)
        images = np.concatenate([self.dataset.images[sample], special])
        with self._session(precision, self.settings.threads) as session:
            label = f"reference {precision}"
            found = predict_all(session, self.dataset, _BATCH_SIZE, label, self.progress)
            logits = np.asarray(found, np.float64)
            self._refuse_unfit(logits)
            of_special = np.asarray(_predict(session, special, _BATCH_SIZE), np.float64)
            again = self._again(session, images, np.concatenate([logits[sample], of_special]))
        count = len(logits)
        rows = np.concatenate([sample, np.arange(count, count + len(special))])
        runs = [
            _placed(again, rows, count + len(special)),
            *self._float32_runs(images, special, rows),
        ]
        data = Reference(
            logits=logits,
            labels=self.dataset.labels,
            floors=noise_floors(logits, [run[:count] for run in runs]),
            precision=precision,
        )
        self._refuse_noise(data)
        return _with_fit_special_images(data, special, of_special, [run[count:] for run in runs])

    def _float32_runs(
        self, images: NDArray[np.uint8], special: NDArray[np.uint8], rows: NDArray[np.intp]
    ) -> list[NDArray[np.floating]]:
        """Return float32 logits of the data set and the special images after it, `[N+P,K]`: all of
        them, twice, in batches of two sizes, once with sums in order; the sampled ones in small
        batches; and some one at a time, in one thread. `images` are the sampled and the special
        ones, `rows` their places. Rows that were not computed are NaN.

        A float32 product costs about half of a float64 one, so this takes about as long as the
        float64 logits.
        """
        settings, count = self.settings, len(self.dataset)
        affordable = len(images) // settings.threads
        few = _spread(len(images), max(_LEAST_SINGLE, affordable))
        size = count + len(special)
        total = 2 * size + len(images) + len(few)
        counter = ImageCounter("noise floor", total, self.progress)
        with ExitStack() as stack:
            usual = stack.enter_context(self._session("fp32", settings.threads))
            ordered = stack.enter_context(
                self._session("fp32", settings.threads, variant=_ORDERED_SUMS)
            )
            alone = usual
            if settings.threads > 1:
                alone = stack.enter_context(self._session("fp32", 1))
            _load_together(*{usual, ordered, alone})

            def whole(session: RemoteSession, batch_size: int) -> NDArray[np.floating]:
                both = (self.dataset.images, special)
                return np.concatenate([counter.predict(session, x, batch_size) for x in both])

            runs = [whole(usual, _FLOAT32_BATCH_SIZE)]
            try:
                runs.append(whole(ordered, _ORDERED_BATCH_SIZE))
            except FailedRun:  # a model whose code cannot run under a dispatch mode
                runs.append(whole(usual, _ORDERED_BATCH_SIZE))
            small = counter.predict(usual, images, _OTHER_BATCH_SIZE)
            single = counter.predict(alone, images[few], 1)
        return [
            *runs,
            _placed(small, rows, size),
            _placed(single, rows[few], size),
        ]

    def _refuse_unfit(self, logits: NDArray[np.float64]) -> None:
        """Raise CheckpointError if NaN or infinity makes predictions meaningless. Minus infinity is
        allowed, because models use it to mask a class."""
        bad = np.isnan(logits) | np.isposinf(logits)
        count = int(np.count_nonzero(bad.any(axis=1) | ~np.isfinite(logits).any(axis=1)))
        if count:
            raise self._no_reference(
                f"gives NaN or infinite logits on {count:,} of {len(logits):,} images",
                "check its forward for a division by zero or a logarithm, and check the images",
            )

    def _again(
        self, session: RemoteSession, images: NDArray[np.uint8], first: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Compute the sample again, in another order and batch size.

        Raises:
            CheckpointError: The logits differ.
        """
        order = np.random.default_rng(0).permutation(len(images))
        tolerance = _SAME[session.candidate.source.artifact.precision]

        def shuffled() -> NDArray[np.float64]:
            found = np.empty_like(first)
            counter = ImageCounter("reference in other batches", len(images), self.progress)
            found[order] = counter.predict(session, images[order], _OTHER_BATCH_SIZE)
            return found

        second = shuffled()
        if _unlike(first, second, tolerance) <= _MOST_UNLIKE:
            return second
        moved = float(np.nanmax(distances(first, second)))
        if _unlike(second, shuffled(), tolerance) > _MOST_UNLIKE:
            raise self._no_reference(
                "is random: the same images in the same batches gave logits that differ by up "
                f"to {moved:.1e}",
                "look for dropout or noise that eval() does not switch off (F.dropout(..., "
                "training=True), torch.rand in forward), or for a state that changes with each "
                "call",
            )
        raise self._no_reference(
            f"depends on the batch: the logits of an image differ by up to {moved:.1e} when "
            "other images are in its batch",
            "look for a BatchNorm without running statistics (track_running_stats=False) or left "
            "in training mode, and for means or sorts over the batch dimension",
        )

    def _refuse_noise(self, reference: Reference) -> None:
        count = int(np.count_nonzero(unclear(reference, MAX_FLOORS)))
        if count > _MOST_UNCLEAR * len(reference.labels):
            raise self._no_reference(
                "gives logits whose differences are smaller than PyTorch's own float32 "
                f"rounding on {count:,} of {len(reference.labels):,} images (typically "
                f"{float(np.median(reference.floors)):.1e})",
                "look for large constants that cancel, and for weights that are all zero",
            )

    def _no_reference(self, what: str, advice: str) -> CheckpointError:
        return CheckpointError(
            f"{self.subject.folder} cannot be used as a reference: the model {what}; {advice}"
        )

    def _still_holds(self, kept: Reference) -> bool:
        rows = _spread(len(self.dataset), _KEPT_SAMPLE_IMAGES)
        try:
            with self._session(kept.precision, self.settings.threads) as session:
                logits = _predict(session, self.dataset.images[rows], _BATCH_SIZE)
        except Crashed:
            return False
        return _unlike(kept.logits[rows], logits, _SAME[kept.precision]) == 0

    def _session(
        self, precision: Precision, threads: int, *, variant: str | None = None
    ) -> RemoteSession:
        settings = replace(
            self.settings, device="cpu", threads=threads, keep_memory=can_keep_memory()
        )
        candidate = checkpoint_candidate(
            self.subject, EAGER, settings, precision=precision, variant=variant
        )
        return RemoteSession(candidate, batch_size=_BATCH_SIZE, timeout_s=self.timeout_s)


def _load_together(*sessions: RemoteSession) -> None:
    """Start sessions side by side. A failure here occurs again when the session is used."""
    pool = ThreadPoolExecutor(len(sessions))
    try:
        for loading in [pool.submit(each.load) for each in sessions]:
            with contextlib.suppress(FailedRun):
                loading.result()
    finally:  # after Ctrl-C the workers are closed, which ends the threads
        pool.shutdown(wait=False, cancel_futures=True)


def _predict(
    session: RemoteSession, images: NDArray[np.uint8], batch_size: int
) -> NDArray[np.floating]:
    (logits,) = session.predict([images], batch_size=batch_size)
    return logits


def _unlike(first: NDArray[np.floating], second: NDArray[np.floating], tolerance: float) -> float:
    """Return the share of images whose logits differ by more than `tolerance` of their scale.
    Images with NaN on either side are left out."""
    scale = np.maximum(scales(first), np.median(scales(first)))
    moved = distances(first, second)
    known = np.flatnonzero(~np.isnan(moved).any(axis=1))
    if not known.size:
        return 0.0
    return float(np.mean((moved[known] > tolerance * scale[known, None]).any(axis=1)))


def _placed(
    logits: NDArray[np.floating], rows: NDArray[np.intp], count: int
) -> NDArray[np.float64]:
    """Return an array of `count` rows with the given logits at `rows` and NaN elsewhere."""
    found = np.full((count, logits.shape[1]), np.nan)
    found[rows] = logits
    return found


def _with_fit_special_images(
    data: Reference,
    images: NDArray[np.uint8],
    logits: NDArray[np.float64],
    runs: list[NDArray[np.floating]],
) -> References:
    """Keep only the special images for which the checkpoint has a valid answer. A model that
    standardises each image has none for a blank one.

    In a sum of n unequal terms, rounding errors are independent and grow with the square root of n.
    Equal positions give equal terms, whose errors have the same sign and grow with n (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.8). The run with ordered sums
    shows this for sums, but not for products of matrices. The floor is therefore larger by the
    square root of n.
    """
    fit = ~np.isnan(logits).any(axis=1) & np.isfinite(logits).any(axis=1)
    fit &= ~np.isposinf(logits).any(axis=1)
    floors = noise_floors(logits, runs) if len(logits) else np.zeros(0)
    fit &= np.isfinite(floors)
    special = Reference(
        logits=logits[fit],
        labels=logits[fit].argmax(1).astype(np.int64),
        floors=np.maximum(floors[fit], np.median(data.floors))
        * np.sqrt(equal_positions(images[fit])),
        precision=data.precision,
    )
    return References(
        data=data,
        special=special,
        special_images=images[fit],
        special_rows=np.flatnonzero(fit),
    )


def _spread(count: int, wanted: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(wanted, count)).astype(np.intp)
