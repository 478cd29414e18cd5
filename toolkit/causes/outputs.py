"""Hypotheses about the output: what was computed from the right logits. Pure.

In: `Symptoms`. Out: a `Cause`, or None where the hypothesis does not explain them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.causes.symptoms import Fit, Symptoms, count, number, numbers
from toolkit.schema import Cause

Logits = NDArray[np.float64]

_LARGEST_ERROR_OF_A_PROBABILITY = 1e-3
_IMAGES_OF_A_CLASS = 10  # wrong ones; of fewer, their numbers say more
_CUT_OFF_AT_LEAST = 1e-3  # share of the logits
_SAME_BITS_AT_LEAST = 50  # distinct values before their number format says anything


def softmax(logits: Logits) -> Logits:
    """Of each row, in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def log_softmax(logits: Logits) -> Logits:
    """Of each row, in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def sigmoid(logits: Logits) -> Logits:
    """Of each element, in float64."""
    halves: Logits = 0.5 + 0.5 * np.tanh(logits / 2)
    return halves


def _two_softmaxes(logits: Logits) -> Logits:
    return softmax(softmax(logits))


@dataclass(frozen=True)
class _Function:
    kind: str
    function: Callable[[Logits], Logits]
    gain: float
    bounded: bool
    words: str
    action: str


_FUNCTIONS = (
    _Function(
        "softmax",
        softmax,
        0.5,
        True,
        "softmax",
        "Remove the softmax at the end of the exported model, or apply it on both sides.",
    ),
    _Function(
        "log-softmax",
        log_softmax,
        2.0,
        False,
        "log-softmax",
        "Remove the log-softmax at the end of the exported model, or apply it on both sides.",
    ),
    _Function(
        "sigmoid",
        sigmoid,
        0.25,
        True,
        "sigmoid",
        "Remove the sigmoid at the end of the exported model, or apply it on both sides.",
    ),
    _Function(
        "softmax twice",
        _two_softmaxes,
        0.5,
        True,
        "softmax, applied twice,",
        "Remove both softmax operators at the end of the exported model.",
    ),
    _Function(
        "tanh",
        np.tanh,
        1.0,
        True,
        "hyperbolic tangent",
        "Remove the tanh at the end of the exported model.",
    ),
)


def function_of_logits(symptoms: Symptoms) -> Cause | None:
    """Softmax and its like stand after the logits."""
    if not symptoms.wrong.any():
        return None
    for each in _FUNCTIONS:
        with np.errstate(over="ignore", invalid="ignore"):
            predicted = each.function(symptoms.reference)
        fit = symptoms.fit(predicted, gain=each.gain)
        if fit is None or (
            each.bounded and symptoms.exact and fit.largest > _LARGEST_ERROR_OF_A_PROBABILITY
        ):
            continue
        return Cause(
            kind=each.kind,
            text=f"The outputs are the {each.words} of the checkpoint's logits: "
            f"{fit.words(symptoms)}.",
            action=each.action,
        )
    return None


def cut_off(symptoms: Symptoms) -> Cause | None:
    """Logits beyond a limit are set to it."""
    candidate = symptoms.candidate.astype(np.float64)
    if not symptoms.wrong.any() or not np.isfinite(candidate).all():
        return None
    low, high = float(candidate.min()), float(candidate.max())
    at_low, at_high = (candidate == low).mean(), (candidate == high).mean()
    if max(at_low, at_high) < _CUT_OFF_AT_LEAST or (
        symptoms.fit(np.clip(symptoms.reference, low, high)) is None
    ):
        return None
    limits = [
        f"{words} {number(limit)} ({100 * share:.1f} % of them)"
        for words, limit, share in (("below", low, at_low), ("above", high, at_high))
        if share >= _CUT_OFF_AT_LEAST
    ]
    return Cause(
        kind="cut off",
        text=f"Logits {' and '.join(limits)} are set to that value; all others are right.",
        action="Look for a ReLU or a clip after the last layer, and for an output that is "
        "quantised with too small a range.",
    )


def decision_only(symptoms: Symptoms) -> Cause | None:
    """The output is 1 for the class decided for, and 0 for the others."""
    candidate = symptoms.candidate
    ones = candidate == 1
    if not ((candidate == 0) | ones).all() or not (ones.sum(axis=1) == 1).all():
        return None
    agreement = float(np.mean(candidate.argmax(1) == symptoms.reference.argmax(1)))
    if agreement < 0.9 or not symptoms.wrong.any():
        return None
    return Cause(
        kind="one-hot",
        text="The outputs are the decision alone, 1 for one class and 0 for the others; it is the "
        f"checkpoint's on {100 * agreement:.2f} % of {count(symptoms.images, 'image')}.",
        action="Remove the argmax at the end of the exported model; logits are needed to compare.",
    )


def narrow_output(symptoms: Symptoms) -> Cause | None:
    """Each logit of a float32 candidate is a number of a narrower format."""
    candidate = symptoms.candidate
    if not symptoms.exact or not symptoms.wrong.any() or not np.isfinite(candidate).all():
        return None
    values = np.unique(candidate.astype(np.float32))
    if len(values) < _SAME_BITS_AT_LEAST:
        return None
    bits = values.view(np.uint32)
    with np.errstate(over="ignore"):
        is_half = (values.astype(np.float16).astype(np.float32) == values).all()
    name = "bfloat16" if not (bits & 0xFFFF).any() else "float16" if is_half else None
    # A difference beyond the steps of that format has another cause.
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(str(name), 0.0)
    scale = float(np.abs(values).max())
    if name is None or float(symptoms.difference.max()) > 30 * step * scale:
        return None
    return Cause(
        kind=f"{name} output",
        text=f"Each of {count(candidate.size, 'logit')} is a {name} number, and they differ from "
        f"the checkpoint's by up to {number(float(symptoms.difference.max()))}: the model "
        f"computes, or returns its output, in {name}.",
        action=f"Look for a cast to {name} in the file, and for a setting of the runtime that "
        "allows it to compute in less than float32.",
    )


def in_steps(symptoms: Symptoms) -> Cause | None:
    """The logits of a float32 candidate lie on at most 256 equal steps."""
    if not symptoms.exact or not symptoms.wrong.any() or symptoms.candidate.size < 2000:
        return None
    values = np.unique(symptoms.candidate.astype(np.float64))
    if not 8 <= len(values) <= 256 or not np.isfinite(values).all():
        return None
    gaps = np.diff(values)
    step = float(gaps.min())
    whole = np.abs(gaps / step - np.round(gaps / step)) < 1e-2
    if not whole.all() or float(symptoms.difference.max()) > 20 * step:
        return None
    return Cause(
        kind="output in steps",
        text=f"The {count(symptoms.candidate.size, 'logit')} have {len(values)} distinct values, "
        f"in steps of {number(step)}: the output is quantised or rounded.",
        action="Look for a Round or Quantize operator at the end of the file; an int8 file must be "
        "recorded as int8.",
    )


def scaled(symptoms: Symptoms) -> Cause | None:
    """One factor, or one number added, or both."""
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
        else "Look at the bias of the last layer and at what is added after it.",
    )


def biased(symptoms: Symptoms) -> Cause | None:
    """A number added to each class, with or without one factor for all."""
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
            action="Look at the bias of the last layer: missing, of another checkpoint, or "
            "quantised with a wrong scale.",
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
        action="Look at the weights and the bias of the last layer: only one of the two is scaled.",
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
    """A number of its own added to all logits of an image: decisions stay."""
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
                action="Look at what follows the last layer; softmax and decisions do not see it.",
            )
    return None


def one_class(symptoms: Symptoms) -> Cause | None:
    """Only a few classes are wrong, and all others are right."""
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
        text=f"Only the logits of {noun} {numbers(bad)} differ, {how}; "
        f"those of the {count(symptoms.classes - len(bad), 'class')} "
        f"left agree within {number(others)} noise floors.",
        action=f"Look at the row of {noun} {numbers(bad)} in the weights and the bias of the last "
        "layer.",
    )


def _finite(symptoms: Symptoms) -> tuple[Logits, Logits, NDArray[np.bool_]]:
    """The classes `[K]` that have finite logits on both sides, and both sides of these in float64.

    Classes that are masked on both sides do not count; none are kept where others are not finite.
    """
    reference, candidate = symptoms.reference, symptoms.candidate.astype(np.float64)
    finite = (np.isfinite(reference) & np.isfinite(candidate)).all(axis=0)
    masked = (np.isneginf(reference) & np.isneginf(candidate)).all(axis=0)
    kept = np.asarray(finite & bool((finite | masked).all()))
    return reference[:, kept], candidate[:, kept], kept
