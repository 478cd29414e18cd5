"""The second look: the same session answers inputs that are batched in other ways.

In: a session that has answered all test images in batches of one size. Out: checks. The inputs are:
the same images one at a time, in batches of 7, of 33 with a ragged end and of 77, in another order;
each batch size that has its own file in the artifact; images that no test set contains; and, after
hundreds of calls, the first batches again. A file may be right at the batch size of the test and
wrong at that of the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.errors import Crashed, WrongOutput
from toolkit.parity.gates import MAX_FLOORS
from toolkit.parity.reference import Reference, References, distances
from toolkit.parity.special import checksum
from toolkit.report.progress import Progress
from toolkit.schema import EXACT_PRECISIONS, Check, Gates
from toolkit.sessions.remote import RemoteSession

_SEED = 11
_SINGLE_IMAGES = 200
_SIZES = {7: 203, 33: 250, 77: 154}  # batch size → images; 250 leave a ragged end of 19
_SIZE_OF_SPECIAL = 33  # a size that was also used for the images of the data set
_BATCHES_AGAIN = 2
_ERROR_RATIO = 1.5  # for inexact precisions: maximum change of the logits, relative to their error
_LARGEST_RATIO = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondLook:
    """The images that a session must answer again, and their references."""

    dataset: Dataset
    references: References

    def checks(
        self,
        session: RemoteSession,
        first: NDArray[np.floating],
        *,
        batch_size: int,
        gates: Gates,
        progress: Progress,
    ) -> Iterator[Check]:
        """Ask the session again. `first` are its logits `[N,K]` of the data set, in batches of
        `batch_size`. If the session raises an exception, the check says so and no further inputs
        are sent.

        Raises:
            FailedRun: The session hangs or runs out of memory.
        """
        feeds = list(self._feeds(session, batch_size))
        label = f"{session.candidate.label} second look"
        judge = _Judge(
            gates=gates,
            exact=session.candidate.source.artifact.precision in EXACT_PRECISIONS,
            error=distances(self.references.data.logits, first),
        )
        for number, feed in enumerate(feeds):
            progress(label, number, len(feeds), feed.name)
            try:
                logits = _answers(session, feed)
            except (Crashed, WrongOutput) as failure:
                yield feed.check(reason=str(failure))
                return
            expected = None if feed.indices is None else first[feed.indices]
            yield judge.check(feed, logits, expected)
        progress(label, len(feeds), len(feeds))

    def _feeds(self, session: RemoteSession, batch_size: int) -> Iterator[_Feed]:
        order = np.random.default_rng(_SEED).permutation(len(self.dataset))
        sizes = {1: _SINGLE_IMAGES, **_SIZES}
        for size in session.candidate.source.artifact.batch_sizes:
            # With fewer images than the file takes at a time, it computed nothing in the first
            # look.
            if size not in sizes and (size > batch_size or size > len(self.dataset)):
                sizes[size] = size
        for size, count in sizes.items():
            indices = np.resize(order, _shown(count, size, len(self.dataset)))
            yield _Feed(
                name="one image at a time" if size == 1 else f"batches of {size}",
                images=self.dataset.images[indices],
                batch_size=size,
                reference=self.references.data.rows(indices),
                indices=indices,
            )
        special = self.references.special_images
        if len(special):
            yield _Feed(
                name="images that no test set has",
                images=special,
                batch_size=_SIZE_OF_SPECIAL,
                reference=self.references.special,
                sha256=checksum(special),
            )
        again = np.arange(min(_BATCHES_AGAIN * batch_size, len(self.dataset)))
        yield _Feed(
            name="the first batches again",
            images=self.dataset.images[again],
            batch_size=batch_size,
            reference=self.references.data.rows(again),
            indices=again,
        )


def _shown(count: int, size: int, images: int) -> int:
    """Return how many images to show in batches of `size`. Showing the few images of a small data
    set again and again shows nothing new: one full batch and a ragged end are enough."""
    least = max(images, size + size // 2)
    if count <= least:
        return count
    return least - (size > 1 and least % size == 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Feed:
    """Raw images with their reference, and the number of images per call."""

    name: str
    images: NDArray[np.uint8]
    batch_size: int
    reference: Reference
    indices: NDArray[np.intp] | None = None  # positions in the data set
    sha256: str | None = None

    def check(
        self, *, reason: str | None, difference: float | None = None, floors: float | None = None
    ) -> Check:
        return Check(
            name=self.name,
            images=len(self.images),
            batch_size=self.batch_size,
            images_sha256=self.sha256,
            difference=_finite(difference),
            floors=_finite(floors),
            reason=reason,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judge:
    """Judges answers by the gates of the first look, or by the error that was measured there."""

    gates: Gates
    exact: bool
    error: NDArray[np.float64]  # [N,K], measured in the first look

    def check(
        self,
        feed: _Feed,
        logits: NDArray[np.floating],
        first: NDArray[np.floating] | None,
    ) -> Check:
        found = distances(feed.reference.logits, logits)
        in_floors = feed.reference.in_floors(logits)
        reason = _not_finite(found)
        if reason is None and self.exact:
            reason = self._too_far(found, in_floors)
        elif reason is None and first is not None:
            reason = self._moved(distances(first, logits), feed.reference)
        return feed.check(
            reason=reason, difference=float(found.max()), floors=float(in_floors.max())
        )

    def _too_far(self, found: NDArray[np.float64], in_floors: NDArray[np.float64]) -> str | None:
        worst = np.unravel_index(int(in_floors.argmax()), in_floors.shape)[0]
        images = f"{np.count_nonzero((in_floors > MAX_FLOORS).any(axis=1))} of {len(found)} images"
        if self.gates.max_floors is not None and in_floors.max() > self.gates.max_floors:
            return (
                f"logits are up to {in_floors.max():,.0f} noise floors ({found[worst].max():.1e}) "
                f"from the checkpoint's, at most {self.gates.max_floors:,.0f} allowed ({images})"
            )
        limit = self.gates.max_logit_diff
        if limit is not None and found.max() > limit:
            return (
                f"logits are up to {found.max():.2g} from the checkpoint's, at most {limit:g} "
                "allowed"
            )
        return None

    def _moved(self, moved: NDArray[np.float64], reference: Reference) -> str | None:
        """Check that the batch does not change the rounding: logits may not change by more than
        their error."""
        error = self.error[np.isfinite(self.error)]
        floor = MAX_FLOORS * float(np.median(reference.floors))
        usual = max(_ERROR_RATIO * _rms(error), floor)
        most = max(_LARGEST_RATIO * float(error.max(initial=0)), floor)
        if _rms(moved) <= usual and moved.max() <= most:
            return None
        return (
            f"the logits of the same images differ by {moved.max():.2g} (root mean square "
            f"{_rms(moved):.2g}) from the first look, more than the rounding error there (root "
            f"mean square {_rms(error):.2g})"
        )


def _answers(session: RemoteSession, feed: _Feed) -> NDArray[np.floating]:
    parts = session.predict([feed.images], batch_size=feed.batch_size)
    return np.concatenate(list(parts))


def _not_finite(found: NDArray[np.float64]) -> str | None:
    count = int(np.count_nonzero(~np.isfinite(found)))
    return f"{count} logits are NaN or infinite" if count else None


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
