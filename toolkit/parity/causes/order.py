"""Hypotheses about order: right answers in the wrong place; pure functions.

In: `Symptoms`. Out: a `Cause`, or None if the hypothesis does not explain them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import Symptoms, count, distance, numbers
from toolkit.schema import Cause

_SAMPLE = 300
_MOST = 0.8  # share of the sample that must be found among the answers of other images
_ALMOST_ALL = 0.98
_ALL = 0.998  # except for a last, smaller call
_CALLS_LEARNT_FROM = 4

_LOOK_AT_THE_RUNTIME = (
    "Check the runtime's buffers and caches: copy each output before the next call, and "
    "compare one image at a time."
)


def classes_permuted(symptoms: Symptoms) -> Cause | None:
    """Test whether the logits of each class are in another column."""
    order = _class_order(symptoms)
    if order is None or (order == np.arange(symptoms.classes)).all():
        return None
    fit = symptoms.fit(symptoms.reference[:, order])
    if fit is None:
        return None
    return Cause(
        kind="classes permuted",
        text=f"The classes are in another order: {_permutation(order)}. In the right order, "
        f"{fit.words(symptoms)}.",
        action="Compare the lists of class names on both sides; sorted folders have another "
        "order than numbers.",
    )


def _class_order(symptoms: Symptoms) -> NDArray[np.intp] | None:
    """For each column of the candidate, return the nearest column of the reference."""
    from scipy.optimize import linear_sum_assignment

    rows = _spread_over(np.arange(symptoms.images), _SAMPLE)
    candidate = np.nan_to_num(symptoms.candidate[rows].astype(np.float64), posinf=0, neginf=0)
    reference = np.nan_to_num(symptoms.reference[rows], posinf=0, neginf=0)
    if len(rows) < 5:
        return None
    # Rows are the candidate's classes; in a tie, the class's own column wins.
    cost = _squared_distances(candidate.T, reference.T)
    cost -= np.eye(len(cost)) * 1e-12 * cost.max(initial=0)
    order: NDArray[np.intp] = linear_sum_assignment(cost)[1]
    return order


def _permutation(order: NDArray[np.intp]) -> str:
    """Describe the order: column k of the candidate holds class `order[k]`."""
    classes = len(order)
    moved = np.flatnonzero(order != np.arange(classes))
    if len(moved) == 2:
        return f"classes {moved[0]} and {moved[1]} are swapped"
    shift = (order - np.arange(classes)) % classes
    if (shift == shift[0]).all():
        by = int(shift[0]) if shift[0] <= classes // 2 else int(shift[0]) - classes
        return f"the logit of class k is at k{-by:+d}, modulo {classes}"
    if (order == np.arange(classes)[::-1]).all():
        return "they are reversed"
    if (order == np.array(sorted(range(classes), key=str))).all():
        return f"they are sorted as text ({', '.join(map(str, order[:4]))} ...), not as numbers"
    shown = ", ".join(f"{order[k]} at {k}" for k in moved[:5])
    return (
        f"{len(moved)} of {classes} are in another place (class {shown}{' ...' * (len(moved) > 5)})"
    )


def same_answer_for_all(symptoms: Symptoms) -> Cause | None:
    """Test whether all answers are the same."""
    candidate = symptoms.candidate
    if symptoms.images < 2 or not np.isfinite(candidate).all():
        return None
    if not (candidate == candidate[0]).all() or not symptoms.wrong.any():
        return None
    return Cause(
        kind="answers repeated",
        text=f"All {count(symptoms.images, 'image')} get bit-identical logits: the output does "
        "not depend on the input.",
        action="Check whether the input reaches the model (its name, its type, an empty "
        "buffer), and look for a cache that returns its first answer.",
    )


def same_answers_each_call(symptoms: Symptoms) -> Cause | None:
    """Test whether each call returns the answers of another call, whatever its input."""
    size, candidate = symptoms.batch_size, symptoms.candidate
    if symptoms.images < 2 * size or not np.isfinite(candidate).all():
        return None
    if not (candidate[size:] == candidate[:-size]).all() or not symptoms.wrong[size:].any():
        return None
    return Cause(
        kind="answers repeated",
        text=f"Every call returns the same {count(size, 'answer')}, bit for bit, for all images "
        f"({count(-(-symptoms.images // size), 'call')}).",
        action="Look for a cache that returns its first answer, or for an input that is bound "
        "once and never updated.",
    )


def answers_of_other_images(symptoms: Symptoms) -> Cause | None:
    """Test whether wrong answers are the right answers of other images."""
    bad = np.flatnonzero(symptoms.wrong)
    if not bad.size or symptoms.images < 2:
        return None
    rows = _sample(bad, symptoms.batch_size)
    sources, found = _sources(symptoms, rows)
    if not found.size or found.mean() < _MOST:
        return None
    rows, sources, share = rows[found], sources[found], float(found.mean())
    for describe in (_shifted, _within_the_batch, _of_other_calls):
        cause = describe(symptoms, rows, sources)
        if cause is not None:
            return cause
    if len(bad) <= 5:
        each = "; ".join(
            f"image {i:,} got that of {j:,}" for i, j in zip(rows, sources, strict=True)
        )
        text = f"{count(len(bad), 'wrong answer')} of {symptoms.images:,}: {each}."
    elif share < _ALMOST_ALL:
        return None
    else:
        text = (
            f"Of {count(len(rows), 'wrong answer')} examined, {100 * share:.0f} % are the right "
            f"answers of other images (image {rows[0]:,} got that of {sources[0]:,})."
        )
    return Cause(kind="answers of other images", text=text, action=_LOOK_AT_THE_RUNTIME)


def _sample(bad: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return wrong images to examine: whole calls, and others spread over the data set."""
    calls = np.unique(bad // size)[:_CALLS_LEARNT_FROM]
    whole = bad[np.isin(bad // size, calls)][: 2 * _SAMPLE]
    return np.unique(np.concatenate([whole, _spread_over(bad, _SAMPLE)]))


def _sources(
    symptoms: Symptoms, rows: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each of `rows`, return the image with the nearest reference, and whether it is near
    enough."""
    candidate = np.nan_to_num(symptoms.candidate[rows].astype(np.float64), posinf=0, neginf=0)
    reference = np.nan_to_num(symptoms.reference, posinf=0, neginf=0)
    sources = np.argmin(_squared_distances(candidate, reference), axis=1)
    difference = distance(symptoms.candidate[rows], symptoms.reference[sources])
    closer = difference.max(axis=1) <= 0.25 * symptoms.difference[rows].max(axis=1)
    return sources, closer & symptoms.near(difference, sources)


def _shifted(symptoms: Symptoms, rows: NDArray[np.intp], sources: NDArray[np.intp]) -> Cause | None:
    """Test one offset for all images, or reversed order."""
    offsets, counts = np.unique(sources - rows, return_counts=True)
    by, size = int(offsets[counts.argmax()]), symptoms.batch_size
    numbers_of_all = np.arange(symptoms.images)
    inside = (numbers_of_all + by >= 0) & (numbers_of_all + by < symptoms.images)
    if counts.max() >= _MOST * len(rows) and _explained(symptoms, numbers_of_all + by, inside):
        calls = by // size if by % size == 0 else 0
        if calls:
            which = "call before" if calls == -1 else "call after" if calls == 1 else "call"
            what = f"Each image gets the answer of image {by:+,}: that of the {which} of {size}"
            return Cause(kind="answers shifted", text=f"{what}.", action=_LOOK_AT_THE_RUNTIME)
        return Cause(
            kind="answers shifted",
            text=f"Each image gets the answer of image {by:+,} ({count(int(inside.sum()), 'image')}"
            " compared).",
            action="Check how images are put into the batch and taken out of it.",
        )
    backwards = symptoms.images - 1 - numbers_of_all
    if (sources == backwards[rows]).mean() >= _MOST and _explained(
        symptoms, backwards, np.ones(symptoms.images, bool)
    ):
        return Cause(
            kind="answers shifted",
            text="The answers are in reversed order: the first image gets the answer of the last.",
            action="Check how images are put into the batch and taken out of it.",
        )
    return None


def _within_the_batch(
    symptoms: Symptoms, rows: NDArray[np.intp], sources: NDArray[np.intp]
) -> Cause | None:
    """Test for the same mistake in each batch: position p gets the answer of position
    `places[p]`."""
    size = min(symptoms.batch_size, symptoms.images)
    if size < 2 or (rows // size != sources // size).mean() > 1 - _MOST:
        return None
    places = np.arange(size)
    for place in range(size):
        seen = sources[(rows % size == place) & (rows // size == sources // size)] % size
        if seen.size:
            places[place] = np.bincount(seen).argmax()
    first = np.arange(symptoms.images) // size * size
    wanted = first + places[symptoms.positions % size]
    if not _explained(symptoms, wanted, wanted < symptoms.images):
        return None
    moved = np.flatnonzero(places != np.arange(size))
    if len(np.unique(places)) < size:
        return Cause(
            kind="answers repeated",
            text=f"Positions {numbers(moved)} of each batch of {size} repeat the answers of "
            f"positions {numbers(places[moved])}.",
            action="Check how a batch is split into chunks: the last, smaller chunk is not "
            "computed, or its answers are overwritten.",
        )
    return Cause(
        kind="answers shifted",
        text=f"The answers of each batch of {size} are {_placed(places)}.",
        action="Check how images are put into the batch and taken out of it.",
    )


def _rolled(places: NDArray[np.intp]) -> bool:
    shift = (places - np.arange(len(places))) % len(places)
    return bool((shift == shift[0]).all())


def _placed(places: NDArray[np.intp]) -> str:
    size = len(places)
    if (places == np.arange(size)[::-1]).all():
        return "reversed"
    if _rolled(places):
        by = int(-places[0] % size)
        return f"shifted by {by if by <= size // 2 else by - size:+d}, wrapping around at the ends"
    return f"in another order (position 0 gets the answer of position {places[0]})"


def _of_other_calls(
    symptoms: Symptoms, rows: NDArray[np.intp], sources: NDArray[np.intp]
) -> Cause | None:
    """Test for answers of the same position in other calls: a buffer that several calls share."""
    apart = sources - rows
    same_place = apart % symptoms.batch_size == 0
    if same_place.mean() < _MOST or len(rows) < 5:
        return None
    later, earlier = apart[same_place] > 0, apart[same_place] < 0
    if max(later.mean(), earlier.mean()) < _ALMOST_ALL:
        return None
    which = "later" if later.mean() > 0.5 else "earlier"
    why = "the output buffer is reused" if which == "later" else "answers are kept too long"
    return Cause(
        kind="answers shifted",
        text=f"Wrong answers are those of the same position in {which} calls "
        f"({int(same_place.sum())} of {len(rows)} examined): {why}.",
        action=_LOOK_AT_THE_RUNTIME,
    )


def _explained(symptoms: Symptoms, sources: NDArray[np.intp], inside: NDArray[np.bool_]) -> bool:
    """Return whether nearly all images have the answers of `sources`."""
    rows = np.flatnonzero(inside)
    if len(rows) < 0.5 * symptoms.images:
        return False
    difference = distance(symptoms.candidate[rows], symptoms.reference[sources[rows]])
    share = symptoms.near(difference, sources[rows]).mean()
    return bool(share >= (_ALL if symptoms.exact else _ALMOST_ALL))


def _squared_distances(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `[n,m]`, squared distances of the rows of `[n,K]` and `[m,K]`, scaled to 1 so that
    nothing overflows."""
    scale = max(float(np.abs(first).max(initial=0)), float(np.abs(second).max(initial=0))) or 1.0
    first, second = first / scale, second / scale
    cross = first @ second.T
    squares: NDArray[np.float64] = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * cross
    return np.maximum(squares, 0)


def _spread_over(values: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    at = np.linspace(0, len(values) - 1, min(most, len(values))).astype(np.intp)
    return values[at]
