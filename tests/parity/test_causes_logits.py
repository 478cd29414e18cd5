"""Each hypothesis about logits names its own fault, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.parity.causes.logits import (
    GENERAL,
    SPECIFIC,
    general_cause,
    name_cause,
    specific_cause,
)
from toolkit.parity.causes.outputs import log_softmax, sigmoid, softmax
from toolkit.parity.causes.symptoms import Symptoms, count, number, numbers
from toolkit.schema import Check

IMAGES, CLASSES, BATCH = 2000, 10, 100
Logits = NDArray[np.float64]
Fault = Callable[[Logits], Logits]


def logits(*, images: int = IMAGES, classes: int = CLASSES, seed: int = 0) -> Logits:
    """Logits like those of a trained classifier: one class stands out, the others depend on the
    image."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((images, 16))
    values = features @ random.standard_normal((16, classes))
    values[np.arange(images), random.integers(0, classes, images)] += 6
    return np.asarray(values - 2)


def floors_of(reference: Logits) -> Logits:
    usual = reference[np.abs(reference) < 1e6]  # masked classes have no noise
    return np.full(len(reference), 1e-7 * float(np.abs(usual).max()))


def symptoms_of(fault: Fault, reference: Logits | None = None, *, seed: int = 1) -> Symptoms:
    """A float32 candidate with correct logits that `fault` then spoils."""
    reference = logits() if reference is None else reference
    floors = floors_of(reference)
    noise = np.random.default_rng(seed).uniform(-2, 2, reference.shape) * floors[:, None]
    with np.errstate(invalid="ignore"):
        candidate = fault(reference + noise)
    return Symptoms(
        reference=reference,
        candidate=candidate.astype(np.float32),
        floors=floors,
        labels=reference.argmax(1),
        batch_size=BATCH,
        precision="fp32",
    )


def quantised(fault: Fault, *, error: float = 0.05, expected: float | None = 0.05) -> Symptoms:
    """An int8 candidate with errors of size `error`, spoiled by `fault`."""
    reference = logits()
    random = np.random.default_rng(2)
    candidate = fault(reference + error * random.standard_normal(reference.shape))
    return replace(
        symptoms_of(lambda given: given),
        candidate=candidate.astype(np.float32),
        precision="int8",
        expected_rms=expected,
    )


def columns(*order: int) -> Fault:
    return lambda given: given[:, list(order)]


def one_hot(given: Logits) -> Logits:
    found: Logits = np.eye(given.shape[1])[given.argmax(1)]
    return found


def in_batches(order: list[int]) -> Fault:
    return lambda given: given.reshape(-1, BATCH, CLASSES)[:, order].reshape(given.shape)


def minus_batch_mean(given: Logits) -> Logits:
    batches = given.reshape(-1, BATCH, CLASSES)
    found: Logits = batches - 0.1 * batches.mean(axis=1, keepdims=True)
    return found.reshape(given.shape)


def mean_leaks_in(given: Logits) -> Logits:
    batches = given.reshape(-1, BATCH, CLASSES)
    before = np.concatenate([0 * batches[:1], batches[:-1]]).mean(axis=1, keepdims=True)
    found: Logits = batches + 0.01 * before
    return found.reshape(given.shape)


def buffer_used_again(given: Logits) -> Logits:
    """Ten calls share one buffer, so all show the answers of the last one."""
    chunks = given.reshape(-1, 10, BATCH, CLASSES)
    return np.repeat(chunks[:, -1:], 10, axis=1).reshape(given.shape)


def remainder_repeated(given: Logits) -> Logits:
    return in_batches([*range(64), *range(36)])(given)


def call_before(given: Logits) -> Logits:
    noise = logits(images=BATCH, seed=9)
    return np.concatenate([noise, given[:-BATCH]])


def first_call_for_ever(given: Logits) -> Logits:
    return np.tile(logits(images=BATCH, seed=9), (len(given) // BATCH, 1))


def changed(at: Any, value: float) -> Fault:
    def fault(given: Logits) -> Logits:
        spoilt = given.copy()
        spoilt[at] += value
        return spoilt

    return fault


def replaced(at: Any, value: Any) -> Fault:
    def fault(given: Logits) -> Logits:
        spoilt = given.copy()
        spoilt[at] = value
        return spoilt

    return fault


def other_image(given: Logits) -> Logits:
    return replaced(1234, given[77])(given)


def with_noise(given: Logits) -> Logits:
    return given + 1e-3 * np.random.default_rng(5).standard_normal(given.shape)


def eight_bits(given: Logits) -> Logits:
    step = float(np.ptp(given)) / 250
    return np.round(given / step) * step


def bfloat16(given: Logits) -> Logits:
    bits = given.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x8000) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def first_features(given: Logits) -> Logits:
    """Only class 4's row of the last layer is wrong."""
    return changed((slice(None), 4), 1)(given) * 1 + 0.3 * np.outer(given[:, 2], np.eye(10)[4])


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "swapped": (columns(0, 1, 2, 5, 4, 3, 6, 7, 8, 9), "classes permuted", "3 and 5 are swapped"),
    "class shift": (columns(9, 0, 1, 2, 3, 4, 5, 6, 7, 8), "classes permuted", "k+1, modulo 10"),
    "class reversal": (columns(*range(9, -1, -1)), "classes permuted", "reversed"),
    "permutation": (columns(1, 2, 0, 3, 5, 4, 6, 7, 8, 9), "classes permuted", "5 of 10"),
    "softmax": (softmax, "softmax", "2,000 images"),
    "log-softmax": (log_softmax, "log-softmax", "2,000 images"),
    "sigmoid": (sigmoid, "sigmoid", "2,000 images"),
    "softmax twice": (lambda given: softmax(softmax(given)), "softmax twice", "twice"),
    "tanh": (np.tanh, "tanh", "tangent"),
    "relu": (lambda given: np.maximum(given, 0), "cut off", "below 0 ("),
    "negative": (np.negative, "scale", "-1 times"),
    "one-hot": (one_hot, "one-hot", "prediction only"),
    "temperature": (lambda given: given / 10, "scale", "0.1 times"),
    "scale": (lambda given: given * 1.02, "scale", "1.02 times"),
    "offset": (lambda given: given + 3, "offset", "plus 3"),
    "affine": (lambda given: given * 2 - 3, "scale and offset", "2 times"),
    "bias": (lambda given: given + np.linspace(-0.1, 0.2, 10), "bias of classes", "class 9"),
    "bias of two": (lambda given: given - 0.5 * np.eye(10)[8] - 0.5 * np.eye(10)[9],
                    "few classes", "classes 8 and 9 differ, by -0.5"),
    "scale and bias": (lambda given: given * 1.02 + np.linspace(-0.1, 0.2, 10),
                       "scale and bias of classes", "1.02 times"),
    "centred": (lambda given: given - given.mean(1, keepdims=True), "offset of each image", "mean"),
    "image offset": (lambda given: given + given[:, :1] ** 2, "offset of each image", "number"),
    "one class": (first_features, "one class", "class 4"),
    "call before": (call_before, "answers shifted", "call before"),
    "first for ever": (first_call_for_ever, "answers repeated", "the same 100 answers"),
    "constant": (lambda given: np.tile(given[:1], (len(given), 1)), "answers repeated", "2,000"),
    "image shift": (lambda given: np.roll(given, 1, axis=0), "answers shifted", "image -1"),
    "shift in the batch": (in_batches([99, *range(99)]), "answers shifted", "shifted by +1"),
    "reversed": (lambda given: given[::-1], "answers shifted", "reversed"),
    "reversed in the batch": (in_batches(list(range(99, -1, -1))),
                              "answers shifted", "reversed"),
    "buffer": (buffer_used_again, "answers shifted", "later calls"),
    "remainder": (remainder_repeated, "answers repeated", "Positions 64 to 99"),
    "other image": (other_image, "answers of other images", "image 1,234 got that of 77"),
    "first call": (replaced(slice(0, 100), logits(images=100, seed=3)), "one batch", "first call"),
    "place": (changed((slice(5, None, BATCH),), 1), "one batch position", "place 5 of"),
    "one image": (changed((1500,), 1), "one image", "image 1,500 of 2,000"),
    "few images": (changed(([3, 700, 1200],), 1), "few images", "3, 700 and 1,200"),
    "one NaN": (replaced((slice(70, 71),), np.nan), "not finite", "image 70 only"),
    "one infinity": (replaced((70, 2), np.inf), "not finite", "1 logit is infinite"),
    "all NaN": (lambda given: given * np.nan, "not finite", "in all images"),
    "batch mean": (minus_batch_mean, "depends on the batch", "-0.1 times their mean"),
    "noise": (with_noise, "random", "Noise of"),
    "mean of the previous call": (mean_leaks_in, "depends on the batch",
                                "0.01 times the mean of the previous call"),
    "cut off": (lambda given: given.clip(-4, 5), "cut off", "below -4 ("),
    "whole numbers": (np.round, "output in steps", "steps of 1"),
    "one bias": (lambda given: given + 0.5 * np.eye(10)[7], "one class", "class 7 differ, by +0.5"),
    "8 bits": (eight_bits, "output in steps", "steps of"),
    "float16": (lambda given: given.astype(np.float16).astype(np.float64), "float16 output",
                "float16 number"),
    "bfloat16": (bfloat16, "bfloat16 output", "bfloat16 number"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_with_its_evidence(name: str) -> None:
    fault, kind, evidence = FAULTS[name]
    cause = name_cause(symptoms_of(fault))
    assert cause is not None
    assert cause.kind == kind, cause
    assert evidence in cause.text, cause
    assert cause.text.endswith(".")
    assert cause.action.endswith(".")


@pytest.mark.parametrize(
    "hypothesis", [*SPECIFIC, *GENERAL], ids=lambda hypothesis: hypothesis.__name__
)
def test_no_hypothesis_explains_healthy_noise_or_random_logits(
    hypothesis: Callable[[Symptoms], object],
) -> None:
    assert hypothesis(symptoms_of(lambda given: given)) is None
    for seed in range(5):
        other = logits(seed=20 + seed)
        assert hypothesis(symptoms_of(lambda _, other=other: other)) is None  # type: ignore[misc]


def test_logits_alone_do_not_name_errors_inside_the_model() -> None:
    """A changed weight in an inner layer: an error of low rank that depends on the image."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        inner = np.maximum(random.standard_normal((IMAGES, 3)), 0) @ random.standard_normal((3, 10))
        for size in (1e-3, 1e-1, 3.0):
            found = name_cause(symptoms_of(lambda given, e=size * inner: given + e))  # type: ignore[misc]
            assert found is None, (seed, size, found)


def test_healthy_int8_has_no_cause() -> None:
    assert name_cause(quantised(lambda given: given)) is None
    assert name_cause(quantised(lambda given: given, expected=None)) is None


@pytest.mark.parametrize(
    "name", ["swapped", "class shift", "softmax", "log-softmax", "temperature", "offset",
             "bias of two", "one-hot", "call before", "first for ever", "image shift",
             "shift in the batch", "buffer", "remainder", "all NaN", "one NaN", "other image"],
)  # fmt: skip
@pytest.mark.parametrize("expected", [0.05, None])
def test_fault_of_an_int8_file_is_named(name: str, expected: float | None) -> None:
    fault, kind, _ = FAULTS[name]
    cause = name_cause(quantised(fault, expected=expected))
    if name == "bias of two" and expected is None:
        assert cause is None  # too small to distinguish from the cost of 8 bits
        return
    assert cause is not None
    assert cause.kind == ("bias of classes" if name == "bias of two" else kind), cause


def test_int8_error_twice_the_expected_size_has_no_cause() -> None:
    assert name_cause(quantised(lambda given: given, error=0.1)) is None


def test_softmax_is_named_despite_masked_classes() -> None:
    for mask in (-np.inf, -1e9):
        masked = logits()
        masked[:, 7] = mask
        assert name_cause(symptoms_of(lambda given: given, masked)) is None
        for fault, kind, _ in (FAULTS["softmax"], FAULTS["temperature"]):
            cause = name_cause(symptoms_of(fault, masked))
            assert cause is not None, mask
            assert cause.kind == kind


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("name", ["swapped", "temperature", "call before", "bias", "one image"])
def test_causes_are_found_at_any_scale_of_logits(name: str, scale: float) -> None:
    fault, kind, _ = FAULTS[name]
    usual = symptoms_of(fault)
    symptoms = replace(
        usual,
        reference=usual.reference * scale,
        candidate=usual.candidate.astype(np.float64) * scale,
        floors=usual.floors * scale,
    )
    cause = name_cause(symptoms)
    if name == "call before":
        assert cause is not None
    if cause is not None:
        assert cause.kind == kind


def test_many_classes_sorted_as_text_are_recognised() -> None:
    reference = logits(images=400, classes=120)
    order = sorted(range(120), key=str)
    cause = name_cause(symptoms_of(lambda given: given[:, order], reference))
    assert cause is not None
    assert "sorted as text (0, 1, 10, 100 ...)" in cause.text


SPECIAL = "images that no test set has"


def check(name: str, batch_size: int, *, wrong: bool, special: bool = False) -> Check:
    return Check(
        name=name,
        images=100,
        batch_size=batch_size,
        images_sha256="a" if special else None,
        difference=1.0 if wrong else 0.0,
        floors=1e6 if wrong else 1.0,
        reason="100 images differ" if wrong else None,
    )


@pytest.mark.parametrize(
    ("wrong", "kind", "evidence"),
    [
        (("one image at a time",), "one batch size", "at batch size 1 they"),
        (("batches of 7", "batches of 33"), "one batch size", "at batch size 7 they"),
        ((SPECIAL,), "some inputs only", "“images that no test set has” are wrong"),
        (("batches of 33", "the first batches again"), "after many calls", "“batches of 33” and"),
        (
            ("one image at a time", "the first batches again"),
            "after many calls",
            "right; after many calls",
        ),
    ],
)
def test_second_look_distinguishes_batch_sizes_images_and_state(
    wrong: tuple[str, ...], kind: str, evidence: str
) -> None:
    sizes = {
        "one image at a time": 1,
        "batches of 7": 7,
        "batches of 33": 33,
        SPECIAL: 33,
        "the first batches again": BATCH,
    }
    checks = tuple(
        check(name, size, wrong=name in wrong, special=name == SPECIAL)
        for name, size in sizes.items()
    )
    cause = name_cause(replace(symptoms_of(lambda given: given), checks=checks))
    assert cause is not None
    assert cause.kind == kind
    assert evidence in cause.text


def test_not_repeatable_is_reported_only_without_another_cause() -> None:
    random = np.random.default_rng(0)
    inner = random.standard_normal((IMAGES, 3)) @ random.standard_normal((3, 10))
    unsteady = replace(symptoms_of(lambda given: given + inner), repeatable=False)
    assert specific_cause(unsteady) is None
    cause = general_cause(unsteady)
    assert cause is not None
    assert cause.kind == "not repeatable"


def test_logits_that_cannot_be_compared_have_no_cause() -> None:
    usual = symptoms_of(lambda given: given)
    assert name_cause(replace(usual, candidate=usual.candidate[:-1])) is None
    assert name_cause(replace(usual, candidate=usual.candidate[:, :-1])) is None


def test_numbers_are_formatted() -> None:
    assert number(3.14e-7) == "3.1e-07"
    assert number(0.1234) == "0.12"
    assert numbers([3, 4, 5]) == "3 to 5"
    assert numbers([3, 5]) == "3 and 5"
    assert numbers(list(range(0, 100, 7))) == "0, 7, 14, 21, 28, 35 and 9 more"
    assert (count(1, "image"), count(2, "class")) == ("1 image", "2 classes")
