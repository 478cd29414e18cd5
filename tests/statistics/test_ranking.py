"""Ranking: order, ties, and the number of passes needed to decide."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from toolkit.schema import Interval
from toolkit.statistics.difference import student_t
from toolkit.statistics.intervals import ratio_interval, speed_interval
from toolkit.statistics.ranking import contenders, fastest, longer, rank, too_close


def passes_at(speed: float, *spread: float) -> list[list[float]]:
    """One pass of equal rounds for each factor."""
    return [[speed * factor] * 3 for factor in spread]


FAST = passes_at(200, 1.00, 1.01, 0.99, 1.00, 1.02, 0.98)
SLOW = passes_at(100, 1.00, 1.01, 0.99, 1.01, 1.00, 1.01)
CLOSE = passes_at(99, 0.97, 1.02, 1.02, 0.99, 1.01, 1.00)


def test_fastest_is_first_and_each_is_compared_with_the_previous_one() -> None:
    first, second, third = rank({"slow": SLOW, "fast": FAST, "close": CLOSE})
    assert [first.name, second.name, third.name] == ["fast", "slow", "close"]
    assert first.speed == speed_interval(FAST)
    assert (first.to_faster, first.too_close) == (None, False)
    assert second.to_faster == ratio_interval(SLOW, FAST)
    assert (second.too_close, second.longer) == (False, None)
    assert third.to_faster == ratio_interval(CLOSE, SLOW)
    assert third.too_close


@pytest.mark.parametrize("passes", [2, 4, 5, 6])
def test_fewer_than_six_passes_assert_no_order(passes: int) -> None:
    _, second = rank({"slow": SLOW[:passes], "fast": FAST[:passes]})
    assert second.to_faster is not None
    assert second.to_faster.high < 0.6
    assert second.too_close == (passes < 6)
    assert second.reason == ("needs six passes" if passes < 6 else None)


def test_one_pass_of_many_rounds_asserts_no_order() -> None:
    _, second = rank({"slow": [[100.0] * 9], "fast": [[200.0] * 9]})
    assert (second.too_close, second.reason) == (True, "needs six passes")


def test_ranking_of_zero_and_one_candidates() -> None:
    assert rank({}) == []
    assert [each.to_faster for each in rank({"slow": SLOW})] == [None]


@given(st.permutations(["slow", "fast", "close"]))
@settings(deadline=None)
def test_input_order_does_not_matter(names: list[str]) -> None:
    candidates = {"slow": SLOW, "fast": FAST, "close": CLOSE}
    assert rank({name: candidates[name] for name in names}) == rank(candidates)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 1.1, True), (0.9, 1.0, True), (1.0, 1.2, True), (0.9, 0.99, False), (1.01, 1.1, False)],
)
def test_too_close_means_the_interval_contains_1(low: float, high: float, expected: bool) -> None:
    assert too_close(Interval(value=low, low=low, high=high, passes=4)) is expected


def ratio_of(difference: float, *, spread: float, passes: int) -> Interval:
    """Student's interval of passes whose logarithms have this mean and standard deviation."""
    half_width = student_t(passes - 1) * spread / math.sqrt(passes)
    low, value, high = (math.exp(difference + side * half_width) for side in (-1, 0, 1))
    return Interval(value=value, low=low, high=high, passes=passes)


@pytest.mark.parametrize("passes", [2, 4, 6])
@pytest.mark.parametrize("difference", [-0.01, 0.01, 0.02])
def test_predicted_number_of_passes_is_just_enough(difference: float, passes: int) -> None:
    factor = longer(ratio_of(difference, spread=0.03, passes=passes))
    assert factor is not None
    wanted = round(factor * passes)
    assert wanted == pytest.approx(factor * passes)
    assert not too_close(ratio_of(difference, spread=0.03, passes=wanted))
    assert too_close(ratio_of(difference, spread=0.03, passes=wanted - 1))


def test_smaller_difference_needs_more_passes() -> None:
    factors = [longer(ratio_of(each, spread=0.03, passes=4)) for each in (0.02, 0.01, 0.005)]
    assert all(factors)
    assert factors == sorted(factors, key=lambda factor: factor or 0)


@pytest.mark.parametrize(
    ("difference", "spread"), [(0.0009, 0.002), (0.002, 0.05), (0.0, 0.01), (0.5, 0.01)]
)
def test_no_prediction_if_undecidable_or_already_decided(difference: float, spread: float) -> None:
    """A difference below 0.1 %; more than 100 times; none; one that is already decided."""
    assert longer(ratio_of(difference, spread=spread, passes=4)) is None


def test_one_pass_gives_no_prediction() -> None:
    ratio = ratio_of(0.02, spread=0.03, passes=4)
    assert longer(ratio) is not None
    assert longer(replace(ratio, passes=1)) is None


def test_ten_equal_candidates_are_usually_all_too_close() -> None:
    random, runs = np.random.default_rng(1), 200
    told_apart = 0
    for _ in range(runs):
        log = random.normal(0, 0.01, (10, 8, 1)) + random.normal(0, 0.02, (10, 8, 5))
        ranks = rank({str(number): passes.tolist() for number, passes in enumerate(np.exp(log))})
        told_apart += not all(each.too_close for each in ranks[1:])
    assert told_apart / runs <= 0.1


# Several possible winners


def test_all_pairs_are_tested_with_one_shared_error_rate() -> None:
    """scipy's paired t tests and Holm's steps by hand decide the same for three candidates."""
    random = np.random.default_rng(2)
    seen = set()
    for _ in range(40):
        logs = random.normal(0, 0.02, (3, 6)) - np.array([[0.0], [0.02], [0.04]])
        speeds = [np.exp(each)[:, None].tolist() for each in logs]
        p_values = {
            (one, other): scipy_stats.ttest_rel(logs[one], logs[other]).pvalue
            for one, other in combinations(range(3), 2)
        }
        apart: set[tuple[int, int]] = set()
        for step, pair in enumerate(sorted(p_values, key=lambda pair: p_values[pair])):
            if p_values[pair] * (3 - step) > 0.025:
                break
            apart.add(pair)
        highest = int(np.argmax(logs.mean(axis=1)))
        left = [at for at in range(3) if tuple(sorted((at, highest))) not in apart]
        assert fastest(speeds) == left
        seen.add(len(left))
    assert seen == {1, 2, 3}


def test_contenders_are_close_to_the_fastest_and_at_least_two() -> None:
    slow, fast, close = (scaled_to(speed) for speed in (50, 100, 99.9))
    assert contenders([slow, fast, close]) == [1, 2]
    assert contenders([slow, fast]) == [1, 0]
    assert contenders([fast]) == [0]
    assert fastest([slow, fast]) == [1]
    assert fastest([[[100.0] * 8], [[50.0] * 8]]) == [0, 1]  # one pass distinguishes nothing


def scaled_to(speed: float) -> list[list[float]]:
    return passes_at(speed, 1.00, 1.01, 0.99, 1.00, 1.02, 0.98)


@pytest.mark.parametrize("count", [2, 4])
def test_equal_candidates_are_rarely_excluded_and_the_speed_is_unbiased(count: int) -> None:
    """The two stages of tune. The speeds that selected the winner are overestimates, the new ones
    are not."""
    random, trials = np.random.default_rng(3), 200
    left_out, chosen, published = 0, [], []
    for _ in range(trials):
        first = np.exp(random.normal(0, 0.02, (count, 6, 3))).tolist()
        leading = contenders(first)
        fresh = {at: np.exp(random.normal(0, 0.02, (8, 3))).tolist() for at in leading}
        close = [leading[at] for at in fastest([fresh[at] for at in leading])]
        left_out += len(close) < count
        chosen.append(math.log(speed_interval(first[close[0]]).value))
        published.append(math.log(speed_interval(fresh[close[0]]).value))
    assert left_out <= scipy_stats.binom.ppf(0.999, trials, 0.05)
    error = float(np.std(published)) / math.sqrt(trials)
    assert abs(np.mean(published)) < 4 * error
    assert np.mean(chosen) > 4 * error
