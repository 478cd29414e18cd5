"""Percentiles only with enough samples; counted outliers; the detected end of the warm-up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from toolkit.schema import Outliers
from toolkit.statistics.samples import (
    outliers,
    percentile,
    samples_needed,
    steady,
)

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("share", "needed"), [(0.5, 5), (0.9, 29), (0.1, 29), (0.95, 59), (0.99, 299), (0.999, 2995)]
)
def test_samples_needed_matches_published_tables(share: float, needed: int) -> None:
    assert samples_needed(share) == needed


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.99])
def test_samples_needed_is_the_first_number_with_a_bound_in_scipy(share: float) -> None:
    """The one-sided interval of the quantile test (Conover 1999) has no bound with one fewer."""
    needed = samples_needed(share)
    bounds = [
        scipy_stats.quantile_test(np.arange(count), p=share, alternative="less")
        .confidence_interval(0.95)
        .high
        for count in (needed - 1, needed)
    ]
    assert math.isnan(bounds[0])
    assert bounds[1] == needed - 1  # the largest


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentile_is_reported_from_the_needed_number_of_samples(share: float) -> None:
    needed = samples_needed(share)
    samples = [float(value) for value in range(needed)]
    assert percentile(samples, share).value == pytest.approx(share * (needed - 1))
    missing = percentile(samples[1:], share)
    assert missing.value is None
    assert (missing.samples, missing.samples_needed) == (needed - 1, needed)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 99.0, math.nan])
def test_a_percentile_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        percentile([1.0, 2.0], share)


def test_outliers_of_known_values() -> None:
    """Quartiles 10 and 14: mild beyond 4 and 20, severe beyond -2 and 26; the fences are inside."""
    core = [10.0, 10.0, 11.0, 12.0, 13.0, 14.0, 14.0]
    samples = [*core, 20.0, 20.5, 26.5, 4.0, 3.5, -2.5]
    assert np.quantile(samples, [0.25, 0.75]).tolist() == [10, 14]
    found = outliers(samples)
    assert found == Outliers(samples=13, low_severe=1, low_mild=1, high_mild=1, high_severe=1)
    assert (found.low, found.high) == (2, 2)


@given(SAMPLES, st.sampled_from([0.25, 4.0, 1024.0]))
@settings(deadline=None)
def test_outliers_are_counted_alike_in_every_unit(samples: list[float], factor: float) -> None:
    assert outliers(samples) == outliers([value * factor for value in samples])


@given(SAMPLES)
@settings(deadline=None)
def test_outliers_are_symmetric(samples: list[float]) -> None:
    """On a grid of whole numbers, where mirrored quartiles are exact."""
    whole = [float(4 * round(value)) for value in samples]
    there, back = outliers(whole), outliers([-value for value in whole])
    assert (there.low_mild, there.low_severe) == (back.high_mild, back.high_severe)
    assert (there.high_mild, there.high_severe) == (back.low_mild, back.low_severe)


def test_few_normal_samples_are_outliers() -> None:
    """0.7 % of normal samples, 4.8 % of exponential ones, all of those at the long end."""
    random = np.random.default_rng(0)
    normal = outliers(random.standard_normal(20_000).tolist())
    assert (normal.low + normal.high) / 20_000 == pytest.approx(0.007, abs=0.002)
    exponential = outliers(random.standard_exponential(20_000).tolist())
    assert exponential.low == 0
    assert exponential.high / 20_000 == pytest.approx(0.048, abs=0.005)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_must_be_finite(bad: float) -> None:
    for call in (lambda: percentile([1.0, bad], 0.5), lambda: outliers([1.0, bad])):
        with pytest.raises(ValueError, match="expected a finite number"):
            call()


def test_no_samples_is_an_error() -> None:
    for call in (lambda: percentile([], 0.5), lambda: outliers([])):
        with pytest.raises(ValueError, match="no samples"):
            call()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([100] * 5, False),
        ([100] * 6, True),
        ([50, 70, 90, *[100] * 6], True),  # older values are ignored
        ([100, 100, 100, 104, 104, 104], False),
        ([104, 104, 104, 100, 100, 100], False),
        ([100, 100, 100, 102, 102, 102], True),
        ([100.0, 100.5, 101.0, 101.5, 102.0, 102.5], False),  # within 3 %, but still climbing
        ([102.5, 102.0, 101.5, 101.0, 100.5, 100.0], False),
        ([100, 100, 60, 100, 100, 100], True),  # one disturbed round
        ([100, 110, 90, 110, 90, 100], True),  # noise, no trend
    ],
)
def test_steady_verdict_for_known_series(values: list[float], expected: bool) -> None:
    assert steady(values) is expected


@given(st.lists(st.floats(min_value=90, max_value=110), max_size=12), st.sampled_from([0.5, 8.0]))
@settings(deadline=None)
def test_steady_does_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    assert steady(values) == steady([value * factor for value in values])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_steady_takes_positive_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="expected finite numbers above 0"):
        steady([bad])


def test_warm_up_ends_when_little_slowdown_is_left() -> None:
    """30 % slow at first, a third less each round, 1 % noise: the number of rounds until it is
    called steady, and how far from warm they are."""
    random = np.random.default_rng(1)
    rounds, missing = [], []
    for _ in range(300):
        values: list[float] = []
        while not steady(values):
            cold = 0.3 * math.exp(-len(values) / 3)
            values.append(100 * (1 - cold) * math.exp(random.normal(0, 0.01)))
        rounds.append(len(values))
        missing.append(cold)
    assert np.median(rounds) <= 14
    assert np.quantile(missing, 0.95) <= 0.03


def test_rounds_without_a_trend_are_soon_steady() -> None:
    random = np.random.default_rng(2)
    rounds = []
    for _ in range(300):
        values: list[float] = []
        while not steady(values):
            values.append(math.exp(random.normal(0, 0.02)))
        rounds.append(len(values))
    assert np.median(rounds) == 6
    assert np.quantile(rounds, 0.95) <= 9
