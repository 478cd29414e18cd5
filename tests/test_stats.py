"""Intervals and quantiles: properties, closed forms, and whether 95 % is about 95 %."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.stats import Interval, median_interval, quantile, throughput

SECONDS = st.floats(min_value=1e-6, max_value=1e3)
SAMPLES = st.lists(SECONDS, min_size=1, max_size=30)


@given(SAMPLES)
@settings(deadline=None, max_examples=40)
def test_the_interval_holds_the_median_and_stays_within_the_values(values: list[float]) -> None:
    """Up to rounding: scipy interpolates the bounds, which can cost their last bit."""
    interval = median_interval(values)
    assert interval.value == statistics.median(values)
    slack = 1e-12 * max(values)
    assert min(values) - slack <= interval.low <= interval.value + slack
    assert interval.value - slack <= interval.high <= max(values) + slack


@given(SAMPLES)
@settings(deadline=None, max_examples=20)
def test_the_same_values_give_the_same_interval(values: list[float]) -> None:
    assert median_interval(values) == median_interval(list(values))


@given(SECONDS, st.integers(1, 30))
@settings(deadline=None)
def test_equal_values_are_their_own_interval(value: float, count: int) -> None:
    assert median_interval([value] * count) == Interval(value=value, low=value, high=value)


def test_more_values_of_one_spread_narrow_the_interval() -> None:
    random = np.random.default_rng(0)
    few, many = (median_interval(random.normal(10, 1, n).tolist()) for n in (10, 1000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


@pytest.mark.parametrize("distribution", ["normal", "exponential"])
def test_about_95_of_100_intervals_hold_the_true_median(distribution: str) -> None:
    """Rounds of a bench are about 20 values. The percentile bootstrap of a median is known to
    cover a little less or more than it says; an interval of 80 % or 99.9 % would be wrong."""
    random = np.random.default_rng(20)
    draw = {"normal": random.standard_normal, "exponential": random.standard_exponential}
    true = {"normal": 0.0, "exponential": float(np.log(2))}[distribution]
    trials = 150
    intervals = (median_interval(draw[distribution](20).tolist()) for _ in range(trials))
    held = sum(interval.low <= true <= interval.high for interval in intervals)
    assert 0.87 <= held / trials <= 0.995


@given(st.lists(SECONDS, min_size=2, max_size=20), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
@settings(deadline=None, max_examples=40)
def test_throughput_is_inverse_in_time(samples_s: list[float], factor: float) -> None:
    """Powers of two scale floats exactly, so half the time is twice the throughput, to the bit."""
    before = throughput(samples_s, round_calls=2, batch_size=4)
    after = throughput([sample * factor for sample in samples_s], round_calls=2, batch_size=4)
    assert after.value == before.value / factor
    assert (after.low, after.high) == pytest.approx((before.low / factor, before.high / factor))


@given(SAMPLES, st.integers(1, 64))
@settings(deadline=None, max_examples=20)
def test_throughput_is_proportional_to_the_batch(samples_s: list[float], batch_size: int) -> None:
    one = throughput(samples_s, round_calls=1, batch_size=1)
    all_of_it = throughput(samples_s, round_calls=1, batch_size=batch_size)
    assert all_of_it.value == pytest.approx(one.value * batch_size)


def test_throughput_is_the_median_over_rounds_of_all_images_of_a_round() -> None:
    """Rounds of 0.5 s, 1 s and 4 s for 2 calls of 10 images: 40, 20 and 5 images/s."""
    samples_s = [0.125, 0.375, 0.5, 0.5, 1.0, 3.0]
    assert throughput(samples_s, round_calls=2, batch_size=10).value == 20.0


def test_calls_of_one_round_are_no_samples_of_their_own() -> None:
    """Calls that differ inside rounds, all rounds alike: the rounds know no spread."""
    found = throughput([0.25, 0.75] * 6, round_calls=2, batch_size=1)
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("rest", [[], [1e3], [1e3, 1e3]])
def test_a_partial_last_round_is_left_out(rest: list[float]) -> None:
    whole = [0.5, 0.25, 0.25, 0.25, 0.25, 0.5]
    expected = throughput(whole, round_calls=3, batch_size=8)
    assert throughput(whole + rest, round_calls=3, batch_size=8) == expected


def test_less_than_one_round_has_no_throughput() -> None:
    with pytest.raises(ValueError, match="no values"):
        throughput([0.5, 0.5], round_calls=3, batch_size=8)


@given(SAMPLES, st.floats(0, 1))
@settings(deadline=None)
def test_quantile_interpolates_linearly_between_order_statistics(
    samples: list[float], share: float
) -> None:
    """The closed form (Hyndman and Fan 1996, type 7): position `share * (n - 1)`."""
    ordered, position = sorted(samples), share * (len(samples) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    expected = ordered[below] + (position - below) * (ordered[above] - ordered[below])
    assert quantile(samples, share) == pytest.approx(expected)


@given(SAMPLES)
@settings(deadline=None)
def test_quantiles_that_have_names(samples: list[float]) -> None:
    assert quantile(samples, 0.0) == min(samples)
    assert quantile(samples, 0.5) == pytest.approx(statistics.median(samples))
    assert quantile(samples, 1.0) == max(samples)


def test_the_90th_percentile_of_ten_known_values() -> None:
    assert quantile([float(value) for value in range(11)], 0.9) == pytest.approx(9.0)


def test_no_samples_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.9)
