"""Hypotheses about where the error occurs: images, calls, batch positions, batch sizes; pure
functions.

In: `Symptoms`. Out: a `Cause`, or None if the hypothesis does not explain them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import Symptoms, count, number, numbers, root_mean_square
from toolkit.schema import Cause, Check

_FEW = 0.01  # share of the images
_APART = 3.0  # times the largest error of the other images
_STANDARD_ERRORS = 6.0  # of a correlation, before it counts

_LOOK_AT_THE_CALLS = (
    "Run these images alone and in another order: if they are then right, the fault is in the "
    "runtime, not in the file."
)


def not_finite_somewhere(symptoms: Symptoms) -> Cause | None:
    """Test for NaN or infinite logits in some images, while most are finite."""
    bad = ~np.isfinite(symptoms.candidate) & (symptoms.candidate != symptoms.reference)
    return not_finite(symptoms) if bad.any(axis=1).mean() < 0.5 else None


def not_finite(symptoms: Symptoms) -> Cause | None:
    """Test for NaN or infinite logits where the reference has finite ones."""
    candidate = symptoms.candidate
    bad = ~np.isfinite(candidate) & (candidate != symptoms.reference)
    if not bad.any():
        return None
    rows = np.flatnonzero(bad.any(axis=1))
    what = "NaN" if np.isnan(candidate[bad]).all() else "infinite"
    if what == "infinite" and np.isnan(candidate[bad]).any():
        what = "NaN or infinite"
    if len(rows) == symptoms.images:
        where = "in all images"
    elif len(rows) <= 5:
        where = f"in image{'s' * (len(rows) > 1)} {numbers(rows)} only"
    else:
        where = f"in {count(len(rows), 'image')} of {symptoms.images:,}"
    classes = np.flatnonzero(bad.any(axis=0))
    named = "all classes" if len(classes) == symptoms.classes else f"class {numbers(classes)}"
    others = np.delete(np.arange(symptoms.images), rows)
    rest = ""
    if others.size:
        good = int(np.count_nonzero(~symptoms.wrong[others]))
        rest = f"; {good:,} of the other {len(others):,} are right"
    return Cause(
        kind="not finite",
        text=f"{count(int(bad.sum()), 'logit')} {'is' if bad.sum() == 1 else 'are'} {what}, "
        f"{where} ({named}){rest}.",
        action="Look for an overflow (float16 ends at 65,504), a division by 0, and memory that "
        "was never written."
        if len(rows) > _FEW * symptoms.images
        else _LOOK_AT_THE_CALLS,
    )


def one_call(symptoms: Symptoms) -> Cause | None:
    """Test whether all wrong images belong to one call, or to calls of one length at the end."""
    rows, size = np.flatnonzero(symptoms.wrong), symptoms.batch_size
    if not rows.size or size < 2 or symptoms.images < 3 * size:
        return None
    calls = np.unique(rows // size)
    in_call = min(size, symptoms.images - int(calls[0]) * size)
    if len(calls) > 1 or len(rows) < max(2, in_call // 2):
        return None
    last = symptoms.images // size - (symptoms.images % size == 0)
    which = "first" if calls[0] == 0 else "last" if calls[0] == last else f"{calls[0] + 1:,}th"
    ragged = in_call < size
    return Cause(
        kind="last batch only" if ragged else "one batch",
        text=f"Only the {which} call is wrong: {len(rows)} of its {count(in_call, 'image')}; "
        f"the {count(symptoms.images - in_call, 'image')} of the other calls are right.",
        action=f"It is the only call with {in_call} images: check how the runtime pads or "
        "splits batches."
        if ragged
        else _LOOK_AT_THE_CALLS,
    )


def places_in_the_batch(symptoms: Symptoms) -> Cause | None:
    """Test whether the same positions of each batch are wrong, and all others right."""
    wrong, size = symptoms.wrong, symptoms.batch_size
    if size < 2 or symptoms.images < 3 * size or not wrong.any():
        return None
    shares = np.array([wrong[symptoms.positions == place].mean() for place in range(size)])
    bad = np.flatnonzero(shares > 0)
    if len(bad) > 0.9 * size or shares[bad].mean() < 0.9 or shares[bad].min() < 0.5:
        return None
    noun = "place" if len(bad) == 1 else "places"
    return Cause(
        kind="one batch position",
        text=f"Only {noun} {numbers(bad)} of each batch of {size} "
        f"{'is' if len(bad) == 1 else 'are'} wrong "
        f"({int(wrong.sum()):,} of {count(symptoms.images, 'image')}); the others are right.",
        action="Check how a batch is split into chunks, and look for buffers of a fixed size.",
    )


def few_images(symptoms: Symptoms) -> Cause | None:
    """Test whether only a few images are wrong, and all others are right."""
    rows = np.flatnonzero(symptoms.wrong)
    if not 0 < len(rows) <= _FEW * symptoms.images:
        return None
    largest = float(symptoms.difference[rows].max())
    others = float(symptoms.difference[~symptoms.wrong].max(initial=0))
    if not symptoms.exact and symptoms.difference[rows].max(axis=1).min() < _APART * others:
        return None  # the tail of the rounding errors
    noun = "image" if len(rows) == 1 else "images"
    return Cause(
        kind="one image" if len(rows) == 1 else "few images",
        text=f"Only {noun} {numbers(rows)} of {symptoms.images:,} "
        f"{'differs' if len(rows) == 1 else 'differ'}, by up to "
        f"{number(largest)}; all others agree to {number(others)}.",
        action=_LOOK_AT_THE_CALLS,
    )


def batch_statistics(symptoms: Symptoms) -> Cause | None:
    """Test whether the error is the same for all images of a batch, so that logits depend on the
    other images."""
    size = symptoms.batch_size
    whole = symptoms.images // size
    if size < 3 or whole < 3 or not symptoms.wrong.any():
        return None
    kept = whole * size
    reference = symptoms.reference[:kept].reshape(whole, size, -1)
    candidate = symptoms.candidate[:kept].astype(np.float64).reshape(whole, size, -1)
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return None
    offsets = (candidate - reference).mean(axis=1, keepdims=True)
    if root_mean_square(offsets - offsets.mean(axis=0)) < 0.2 * root_mean_square(offsets):
        return None  # one number for each class would be enough
    fit = symptoms.fit(
        (reference + offsets).reshape(kept, -1),
        gain=2.0,
        parameters=offsets.size // 4,  # a batch of 5 images is enough: offsets are means
        rows=np.arange(kept),
    )
    if fit is None:
        return None
    what = _means(reference.mean(axis=1, keepdims=True), offsets)
    return Cause(
        kind="depends on the batch",
        text=f"The logits depend on the other images of the batch: {what} is added to each class; "
        f"{fit.words(symptoms)}.",
        action="Look for normalisation by the statistics of the batch (BatchNorm in training "
        "mode, a mean over dimension 0).",
    )


def _means(means: NDArray[np.float64], offsets: NDArray[np.float64]) -> str:
    """Describe what is added. `means` are those of the reference's logits of each batch."""
    for name, given, wanted in (
        ("their mean over the batch", means, offsets),
        ("the mean of the previous call", means[:-1], offsets[1:]),
    ):
        factor = float((given * wanted).sum() / (given**2).sum()) if given.any() else 0.0
        if root_mean_square(wanted - factor * given) < 0.05 * root_mean_square(wanted):
            return f"{factor:+.3g} times {name}"
    return "one number for each batch"


def only_the_second_look(symptoms: Symptoms) -> Cause | None:
    """Test whether all images of the main pass are right and a check is wrong."""
    failed = [check for check in symptoms.checks if check.reason is not None]
    if symptoms.wrong.any() or not failed:
        return None
    passed = [check for check in symptoms.checks if check.reason is None]
    kind, what, action = _of_checks(failed, passed, symptoms)
    return Cause(
        kind=kind,
        text=f"The {count(symptoms.images, 'image')} of the main pass, {symptoms.batch_size} at a "
        f"time, are right; {what}: {failed[0].reason}.",
        action=action,
    )


def _of_checks(
    failed: list[Check], passed: list[Check], symptoms: Symptoms
) -> tuple[str, str, str]:
    """Return kind, words and action. Checks run one after another, in the order of
    `symptoms.checks`."""
    special = [check for check in failed if check.images_sha256 is not None]
    again = [
        check
        for check in failed
        if check.images_sha256 is None and check.batch_size == symptoms.batch_size
    ]
    sizes = sorted({check.batch_size for check in failed} - {check.batch_size for check in passed})
    if again:
        return (
            "after many calls",
            (f"after many calls, {_names(failed)} are wrong"),
            _LOOK_AT_THE_CALLS,
        )
    if special == failed:
        action = "Run these images alone: look for how the runtime handles such values."
        return "some inputs only", f"{_names(failed)} are wrong", action
    if not sizes:
        return (
            "after many calls",
            (f"after many calls, {_names(failed)} are wrong"),
            _LOOK_AT_THE_CALLS,
        )
    action = (
        f"Run the artifact at batch size {sizes[0]} alone; look for a batch size that is fixed "
        "in the file (a Reshape with a number for the batch), and for kernels that are used "
        "for that size."
    )
    return "one batch size", f"at batch size {numbers(sizes)} they are wrong", action


def _names(checks: list[Check]) -> str:
    return " and ".join(f"“{check.name}”" for check in checks[:3])


def noise(symptoms: Symptoms) -> Cause | None:
    """Test whether the error is unrelated to the images: equal in all classes, unrelated to the
    logits.

    Errors from inside a model are correlated between classes, because they pass through the weights
    of the last layer; noise on the output is not.
    """
    if not symptoms.wrong.any() or not symptoms.exact or symptoms.images < 500:
        return None
    if not (np.isfinite(symptoms.candidate).all() and np.isfinite(symptoms.reference).all()):
        return None
    error = symptoms.candidate.astype(np.float64) - symptoms.reference
    scale = float(np.std(error))
    if scale == 0 or scale < 2 * symptoms.tolerance_floors * float(np.median(symptoms.floors)):
        return None
    error = error / scale
    sizes = error.std(axis=0)
    if (
        not sizes.min()
        or sizes.max() > 1.3 * sizes.min()
        or _kurtosis(error) > 6
        or _correlated(symptoms, error)
    ):
        return None
    return Cause(
        kind="random",
        text=f"Noise of {number(scale)} is added to each logit. It is equal in all classes, and "
        "unrelated to the logits, the other classes and the other images "
        f"({count(symptoms.images, 'image')}).",
        action="Run the artifact twice on the same images: look for a source of random numbers, "
        "a race between threads, or memory that is never written.",
    )


def _kurtosis(error: NDArray[np.float64]) -> float:
    centred = error - error.mean()
    return float(np.mean(centred**4) / np.mean(centred**2) ** 2)


def _correlated(symptoms: Symptoms, error: NDArray[np.float64]) -> bool:
    """Return whether errors are correlated between classes, with the reference, with the previous
    image, or with the size of an image."""
    limit = _STANDARD_ERRORS / np.sqrt(symptoms.images)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.corrcoef(error.T) - np.eye(symptoms.classes)
        along = [
            np.corrcoef(error[:, k], symptoms.reference[:, k])[0, 1]
            for k in range(symptoms.classes)
        ]
    after = np.corrcoef(error[:-1].ravel(), error[1:].ravel())[0, 1]
    halves = error.shape[1] // 2
    first, second = (error[:, :halves] ** 2).sum(1), (error[:, halves:] ** 2).sum(1)
    by_size = np.corrcoef(first, second)[0, 1] if halves else 0.0
    found = [np.nanmax(np.abs(between)), np.nanmax(np.abs(along)), abs(after), abs(by_size)]
    return bool(max(found) > limit or np.abs(error.mean(axis=0)).max() > limit)


def not_repeatable(symptoms: Symptoms) -> Cause | None:
    """Test whether the same images gave other logits the second time."""
    if symptoms.repeatable is not False:
        return None
    error = root_mean_square(symptoms.difference)
    return Cause(
        kind="not repeatable",
        text="The same images give other logits each time; they are "
        f"{number(error)} (root mean square) away from the checkpoint's.",
        action="Look for dropout that is still active, for a source of random numbers, and for "
        "a race between threads.",
    )
