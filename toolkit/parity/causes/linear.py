"""Hypotheses about factors and sums: logits times a number, plus a number; pure functions.

In: `Symptoms`. Out: a `Cause`, or None if the hypothesis does not explain them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import Fit, Symptoms, count, number, numbers
from toolkit.schema import Cause

Logits = NDArray[np.float64]

_IMAGES_OF_A_CLASS = 10  # wrong images; with fewer, their numbers say more


def scaled(symptoms: Symptoms) -> Cause | None:
    """Test one factor, one added number, or both."""
    reference, candidate, kept = _finite(symptoms)
    if not kept.any() or not symptoms.wrong.any():
        return None
    power = float((reference**2).sum())
    factor = float((reference * candidate).sum()) / power if power > 0 else 0.0
    offset = float(np.mean(candidate - reference))
    centred = reference - reference.mean()
    spread = float((centred**2).sum())
    slope = float((centred * candidate).sum()) / spread if spread > 0 else 0.0
    both = float(candidate.mean() - slope * reference.mean())
    fits = (
        ("scale", factor, 0.0, 1),
        ("offset", 1.0, offset, 1),
        ("scale and offset", slope, both, 2),
    )
    for kind, by, plus, parameters in fits:
        if by == 0:
            continue
        fit = symptoms.fit(
            by * symptoms.reference + plus, gain=max(abs(by), 1e-30), parameters=parameters
        )
        if fit is not None:
            return _scaled(symptoms, kind, by, plus, fit)
    return None


def _scaled(symptoms: Symptoms, kind: str, by: float, plus: float, fit: Fit) -> Cause:
    times = f"{by:.6g} times the checkpoint's logits" if "scale" in kind else "the checkpoint's"
    added = f" {'plus' if plus > 0 else 'minus'} {abs(plus):.6g}" if "offset" in kind else ""
    return Cause(
        kind=kind,
        text=f"The logits are {times}{added}: {fit.words(symptoms)}.",
        action="Look for a temperature or a factor after the last layer, for a last layer with "
        "other weights, and for a wrong scale of a quantised output."
        if "scale" in kind
        else "Check the bias of the last layer and anything added after it.",
    )


def biased(symptoms: Symptoms) -> Cause | None:
    """Test a number added to each class, with or without one factor for all."""
    reference, candidate, kept = _finite(symptoms)
    if not kept.any() or not symptoms.wrong.any():
        return None
    bias = np.zeros(symptoms.classes)
    bias[kept] = (candidate - reference).mean(axis=0)
    fit = symptoms.fit(symptoms.reference + bias, parameters=symptoms.classes)
    if fit is not None:
        return Cause(
            kind="bias of classes",
            text=f"{_added(symptoms, bias, fit)}: {fit.words(symptoms)}.",
            action="Check the bias of the last layer: it may be missing, from another "
            "checkpoint, or quantised with a wrong scale.",
        )
    centred = reference - reference.mean(axis=0)
    spread = float((centred**2).sum())
    slope = float((centred * candidate).sum()) / spread if spread > 0 else 0.0
    if slope <= 0:
        return None
    bias[kept] = candidate.mean(axis=0) - slope * reference.mean(axis=0)
    fit = symptoms.fit(
        slope * symptoms.reference + bias, gain=slope, parameters=symptoms.classes + 1
    )
    if fit is None:
        return None
    return Cause(
        kind="scale and bias of classes",
        text=f"The logits are {slope:.6g} times the checkpoint's, plus a number for each class: "
        f"{fit.words(symptoms)}.",
        action="Check the weights and the bias of the last layer: only one of the two is scaled.",
    )


def _added(symptoms: Symptoms, bias: Logits, fit: Fit) -> str:
    noise = max(fit.largest, fit.rms) if symptoms.exact else 3 * fit.rms
    moved = np.flatnonzero(np.abs(bias) > max(noise, 0.1 * float(np.abs(bias).max())))
    largest = int(np.abs(bias).argmax())
    if 0 < len(moved) <= 3:
        each = " and ".join(f"class {k} by {bias[k]:+.3g}" for k in moved)
        return f"The logits differ by a number for each class ({each}, the others hardly)"
    return (
        f"The logits differ by a number for each class (up to {bias[largest]:+.3g}, "
        f"class {largest})"
    )


def offset_of_each_image(symptoms: Symptoms) -> Cause | None:
    """Test a number added to all logits of an image, different for each image; predictions stay the
    same."""
    if symptoms.classes < 8 or not symptoms.exact or not symptoms.wrong.any():
        return None
    reference, candidate, kept = _finite(symptoms)
    if not kept.all():
        return None
    known = {
        "minus their mean": -reference.mean(axis=1, keepdims=True),
        "minus their maximum": -reference.max(axis=1, keepdims=True),
    }
    free = (candidate - reference).mean(axis=1, keepdims=True)
    for words, offset in (*known.items(), ("plus a number for each image", free)):
        fit = symptoms.fit(reference + offset, gain=2.0)
        if fit is not None:
            return Cause(
                kind="offset of each image",
                text=f"The logits are the checkpoint's {words}: {fit.words(symptoms)}.",
                action=(
                    "Check what follows the last layer; softmax and predictions are not affected."
                ),
            )
    return None


def one_class(symptoms: Symptoms) -> Cause | None:
    """Test whether only a few classes are wrong and all others are right."""
    if symptoms.classes < 3 or not symptoms.exact or symptoms.wrong.sum() < _IMAGES_OF_A_CLASS:
        return None
    limit = symptoms.tolerance_floors * symptoms.floors[:, None]
    bad = np.flatnonzero((symptoms.difference > limit).any(axis=0))
    if not 0 < len(bad) <= max(1, symptoms.classes // 5):
        return None
    floors = np.maximum(symptoms.floors[:, None], 1e-300)
    others = float(np.delete(symptoms.difference / floors, bad, axis=1).max())
    if others > 0.5 * symptoms.tolerance_floors:
        return None
    wrong = symptoms.difference[:, bad]
    noun = "class" if len(bad) == 1 else "classes"
    moved = (symptoms.candidate - symptoms.reference)[:, bad]
    steady = (np.ptp(moved, axis=0) <= 2 * float(limit.max())).all()
    how = f"by {moved.mean():+.3g} on each image" if steady else f"by up to {number(wrong.max())}"
    return Cause(
        kind="one class" if len(bad) == 1 else "few classes",
        text=f"Only the logits of {noun} {numbers(bad)} differ, {how}; those of the other "
        f"{count(symptoms.classes - len(bad), 'class')} agree within {number(others)} "
        "noise floors.",
        action=f"Check the row of {noun} {numbers(bad)} in the weights and the bias of the last "
        "layer.",
    )


def _finite(symptoms: Symptoms) -> tuple[Logits, Logits, NDArray[np.bool_]]:
    """Return the classes `[K]` that have finite logits on both sides, and these logits of both
    sides in float64.

    Classes that are masked on both sides do not count. If other logits are not finite, no class is
    kept.
    """
    reference, candidate = symptoms.reference, symptoms.candidate.astype(np.float64)
    finite = (np.isfinite(reference) & np.isfinite(candidate)).all(axis=0)
    masked = (np.isneginf(reference) & np.isneginf(candidate)).all(axis=0)
    kept = np.asarray(finite & bool((finite | masked).all()))
    return reference[:, kept], candidate[:, kept], kept
