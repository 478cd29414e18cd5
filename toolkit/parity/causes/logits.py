"""Causes that the logits alone show; pure functions.

In: `Symptoms`. Out: a `Cause`, or None. Exact and specific hypotheses are tried before general
ones. A general hypothesis (one class, a few images) says where the error is, not what it is, so the
caller looks at the inputs and the file before it accepts one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.parity.causes.linear import biased, offset_of_each_image, one_class, scaled
from toolkit.parity.causes.order import (
    answers_of_other_images,
    classes_permuted,
    same_answer_for_all,
    same_answers_each_call,
)
from toolkit.parity.causes.outputs import (
    cut_off,
    decision_only,
    function_of_logits,
    in_steps,
    narrow_output,
)
from toolkit.parity.causes.places import (
    batch_statistics,
    few_images,
    noise,
    not_finite,
    not_finite_somewhere,
    not_repeatable,
    one_call,
    only_the_second_look,
    places_in_the_batch,
)
from toolkit.parity.causes.symptoms import Symptoms
from toolkit.schema import Cause

Hypothesis = Callable[[Symptoms], Cause | None]

SPECIFIC: tuple[Hypothesis, ...] = (
    not_finite_somewhere,
    same_answer_for_all,
    same_answers_each_call,
    answers_of_other_images,
    decision_only,
    classes_permuted,
    cut_off,
    function_of_logits,
    batch_statistics,
    one_call,
    places_in_the_batch,
    only_the_second_look,
    narrow_output,
    in_steps,
    noise,
)
"""Each names what went wrong."""

GENERAL: tuple[Hypothesis, ...] = (
    not_finite,
    scaled,
    one_class,
    biased,
    few_images,
    offset_of_each_image,
    not_repeatable,
)
"""Each names where the error shows; the file or the inputs may say more."""


def name_cause(symptoms: Symptoms) -> Cause | None:
    """Return the first hypothesis that explains the symptoms."""
    return specific_cause(symptoms) or general_cause(symptoms)


def specific_cause(symptoms: Symptoms) -> Cause | None:
    """Return the first of `SPECIFIC` that explains the symptoms."""
    return _first(SPECIFIC, symptoms)


def general_cause(symptoms: Symptoms) -> Cause | None:
    """Return the first of `GENERAL` that explains the symptoms."""
    return _first(GENERAL, symptoms)


def _first(hypotheses: Sequence[Hypothesis], symptoms: Symptoms) -> Cause | None:
    if not symptoms.comparable:
        return None
    found = (hypothesis(symptoms) for hypothesis in hypotheses)
    return next((cause for cause in found if cause is not None), None)
