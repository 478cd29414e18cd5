"""The pure verdict on synthetic logits: no false alarm on near ties, and no missed fault."""

from __future__ import annotations

import numpy as np
import pytest

from .logits import judge_model, model

TIES = (1e-7, 3e-7, 1e-6, 1e-5, 1e-4)
SCALES = (1e-30, 1e-10, 1.0, 1e10, 1e30)
OFFSETS = (0.0, 1e3, 1e5, -1e5)


def test_500_near_ties_raise_no_false_alarm() -> None:
    """Two classes that float32 cannot tell apart on most images, in 500 models."""
    flips = 0
    for seed in range(500):
        report = judge_model(model(seed, tie=TIES[seed % len(TIES)]), seed=seed)
        assert report.status == "passed", (seed, report.reason)
        flips += report.flips or 0
    assert flips > 500  # otherwise the ties are not near enough to test anything


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_healthy_model_passes_at_any_scale_and_offset(scale: float, offset: float) -> None:
    report = judge_model(model(1, offset=offset, scale=scale))
    assert report.status == "passed", report.reason


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("scale", SCALES)
def test_weights_off_by_1_percent_fail_at_any_scale_and_offset(scale: float, offset: float) -> None:
    given = model(1, offset=offset, scale=scale)
    spoiled = given.weights.copy()
    spoiled[:, 3] *= np.float32(1.01)
    other = type(given)(
        features=given.features, weights=spoiled, offset=given.offset, scale=given.scale
    )
    assert judge_model(given, other.float32(5)).status == "failed"


def test_swapped_first_two_classes_fail_unless_tied() -> None:
    given = model(2, tie=1e-3)
    logits = given.float32(5)
    logits[:, [0, 1]] = logits[:, [1, 0]]
    assert judge_model(given, logits).status == "failed"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_single_non_finite_logit_fails(value: float) -> None:
    given = model(3)
    logits = given.float32(5)
    logits[77, 3] = value
    assert judge_model(given, logits).status == "failed"
