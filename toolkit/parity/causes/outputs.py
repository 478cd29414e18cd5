"""Hypotheses about the output: a function of the right logits; pure functions.

In: `Symptoms`. Out: a `Cause`, or None if the hypothesis does not explain them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import Symptoms, count, number
from toolkit.schema import Cause

Logits = NDArray[np.float64]

_LARGEST_ERROR_OF_A_PROBABILITY = 1e-3
_CUT_OFF_AT_LEAST = 1e-3  # share of the logits
_SAME_BITS_AT_LEAST = 50  # distinct values before their number format says anything


def softmax(logits: Logits) -> Logits:
    """Return the softmax of each row, in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def log_softmax(logits: Logits) -> Logits:
    """Return the log-softmax of each row, in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def sigmoid(logits: Logits) -> Logits:
    """Return the sigmoid of each element, in float64."""
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
    """Test whether a softmax or a similar function follows the logits."""
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
    """Test whether logits beyond a limit are set to it."""
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
    """Test whether the output is 1 for the predicted class and 0 for the others."""
    candidate = symptoms.candidate
    ones = candidate == 1
    if not ((candidate == 0) | ones).all() or not (ones.sum(axis=1) == 1).all():
        return None
    agreement = float(np.mean(candidate.argmax(1) == symptoms.reference.argmax(1)))
    if agreement < 0.9 or not symptoms.wrong.any():
        return None
    return Cause(
        kind="one-hot",
        text="The outputs are the prediction only, 1 for one class and 0 for the others; it "
        f"equals the checkpoint's on {100 * agreement:.2f} % of "
        f"{count(symptoms.images, 'image')}.",
        action="Remove the argmax at the end of the exported model; the comparison needs logits.",
    )


def narrow_output(symptoms: Symptoms) -> Cause | None:
    """Test whether each logit of a float32 candidate is a number of a narrower format."""
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
    # A difference larger than the steps of that format has another cause.
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(str(name), 0.0)
    scale = float(np.abs(values).max())
    if name is None or float(symptoms.difference.max()) > 30 * step * scale:
        return None
    return Cause(
        kind=f"{name} output",
        text=f"Each of {count(candidate.size, 'logit')} is a {name} number, and they differ "
        f"from the checkpoint's by up to {number(float(symptoms.difference.max()))}: the "
        f"model computes in {name}, or returns its output in {name}.",
        action=f"Look for a cast to {name} in the file, and for a setting of the runtime that "
        "allows it to compute in less than float32.",
    )


def in_steps(symptoms: Symptoms) -> Cause | None:
    """Test whether the logits of a float32 candidate lie on at most 256 equal steps."""
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
