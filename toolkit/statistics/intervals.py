"""Speeds → values with their intervals; pure functions.

A candidate is measured in passes, each in fresh worker processes, and a pass has rounds. Passes
differ systematically (memory layout, placement of threads), so the rounds of one pass are not
independent samples of the candidate, but passes are. Each pass counts as one value, the median of
its rounds, which a few disturbed rounds do not change. All calculations use logarithms, so that a
ratio and its inverse have mirrored intervals.

The interval of a speed is Student's t over passes. The interval of a ratio is an inverted Wilcoxon
signed-rank test: if both were equally fast, swapping them in a pass would change nothing, so the
logarithm of their ratio is as likely above 0 as below, whatever disturbs the machine. The test is
then exact, and one pass with other load changes its interval little, while Student's t would become
too wide to use. The test needs six passes; with fewer, Student's t is used.

There is no bootstrap over passes and rounds, for this reason: the median of a pass already contains
the noise of its rounds. Resampling the rounds as well counts that noise twice (Davison and Hinkley
1997, "Bootstrap Methods and their Application", section 3.8). With 3 to 10 rounds, a resample often
consists of the outliers that the median should resist: scaled for few passes (Hesterberg 2015), its
intervals are 1.3 to 5 times as wide, and call two equal candidates different in 0 to 1 % of runs
instead of 5 %. Resampling passes alone, with this scaling, gives the same as Student's t;
tests/statistics/test_intervals.py compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from statistics import median

import numpy as np

from toolkit.schema import Interval
from toolkit.statistics.difference import CONFIDENCE, Difference, of_one

LEAST_PASSES = (
    6  # needed to tell two apart: the range of five values contains the median with less than 95 %
)
_MIN_ROUNDS_OF_ONE_PASS = 6  # 2 * 0.5**6 < 5 %: fewer rounds give no interval for a median

Passes = Sequence[Sequence[float]]
"""Images/s of each round of each pass; an empty pass gave nothing and is left out."""


def speed_interval(passes: Passes) -> Interval:
    """Return throughput in images/s: geometric mean over passes of the median round.

    The median is used within a pass, because a shared machine makes rounds slower, never faster,
    and the mean would follow them. The mean is used over passes, because medians of 2 to 10 values
    waste information, and because Student's t belongs to the mean.

    Raises:
        ValueError: No round; a value that is not a finite positive number; a single pass with fewer
            than 6 rounds.
    """
    return _interval(_logs(passes))


def ratio_interval(candidate: Passes, baseline: Passes) -> Interval:
    """Return the speed of the candidate divided by that of the baseline (1.0: equal), both from one
    run.

    Rounds with the same number in the same pass are paired, so the state of the machine in that
    minute cancels in their ratio. Rounds that only one of the two has are left out.

    Raises:
        ValueError: No common round; otherwise as for `speed_interval`.
    """
    pairs = _pairs(candidate, baseline)
    medians = _medians(pairs)
    return _signed_rank(medians) if len(medians) >= LEAST_PASSES else _interval(pairs)


def paired_difference(candidate: Passes, baseline: Passes) -> Difference:
    """Return the same as `ratio_interval`, but with Student's t for any number of passes. Its
    p-values can be corrected for many comparisons; those of ranks have too few steps.

    Raises:
        ValueError: Fewer than 2 common passes; otherwise as for `ratio_interval`.
    """
    return of_one(_medians(_pairs(candidate, baseline)))


def pass_logs(passes: Passes) -> list[float | None]:
    """Return the logarithm of the median round of each pass, in order; None if a pass gave nothing.

    Raises:
        ValueError: No round; a value that is not a finite positive number.
    """
    return [median(rounds) if rounds else None for rounds in _logs(passes)]


def relative_half_width(interval: Interval) -> float:
    """Return half the width relative to the value (0.02: ± 2 %), on the longer side."""
    return max(interval.high - interval.value, interval.value - interval.low) / interval.value


def _interval(logs: Sequence[Sequence[float]]) -> Interval:
    """Return Student's t interval (1908) over the medians of the passes, converted back from
    logarithms."""
    medians = _medians(logs)
    if len(medians) == 1:
        return _one_pass(next(rounds for rounds in logs if rounds))
    return of_one(medians).interval()


def _signed_rank(logs: Sequence[float]) -> Interval:
    """Return the Hodges-Lehmann estimate (1963) of 6 or more values with its interval: the median
    of all means of two values (each with itself too), between two of those."""
    pairs = combinations_with_replacement(logs, 2)
    means = sorted((one + other) / 2 for one, other in pairs)
    outside = _rank_sums_outside(len(logs))
    low, value, high = means[outside], median(means), means[-1 - outside]
    bounds = [math.exp(log) for log in (low, value, high)]
    return Interval(value=bounds[1], low=bounds[0], high=bounds[2], passes=len(logs))


@lru_cache
def _rank_sums_outside(count: int) -> int:
    """Return the largest number of means of two, among `count` values, that may lie beyond either
    bound of a 95 % interval: the largest rank sum that is not exceeded in 2.5 % of cases at most
    (see tables of the signed-rank test: 0 of 6 values, 3 of 8, 8 of 10).

    The distribution of the sum is exact: each rank 1..count counts or not, and all sets are equally
    likely.
    """
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.concatenate(([0.5], np.zeros(rank - 1), [0.5])))
    below = np.cumsum(ways)
    return int(np.searchsorted(below, (1 - CONFIDENCE) / 2, side="right")) - 1


def _one_pass(logs: Sequence[float]) -> Interval:
    """Return the median of the rounds with two of them as bounds: the inverted sign test (Thompson
    1936)."""
    if len(logs) < _MIN_ROUNDS_OF_ONE_PASS:
        raise ValueError(
            f"one pass of {len(logs)} rounds gives no interval, expected "
            f"{_MIN_ROUNDS_OF_ONE_PASS} rounds or more, or 2 passes"
        )
    from scipy.stats import quantile_test

    bounds = quantile_test(logs, p=0.5).confidence_interval(CONFIDENCE)
    low, value, high = (math.exp(log) for log in (bounds.low, median(logs), bounds.high))
    return Interval(value=value, low=low, high=high, passes=1)


def _pairs(candidate: Passes, baseline: Passes) -> list[list[float]]:
    """Return logarithms of the ratios of paired rounds; at least one."""
    pairs = [
        [above - below for above, below in zip(new, old, strict=False)]
        for new, old in zip(_logs(candidate), _logs(baseline), strict=False)
    ]
    if not any(pairs):
        raise ValueError("the two have no round of the same pass and number in common")
    return pairs


def _medians(logs: Sequence[Sequence[float]]) -> list[float]:
    return [median(rounds) for rounds in logs if rounds]


def _logs(passes: Passes) -> list[list[float]]:
    """Return the logarithms of all values, checked; passes keep their place."""
    if not any(len(rounds) for rounds in passes):
        raise ValueError("no round was measured, expected at least one speed in images/s")
    for number, rounds in enumerate(passes, start=1):
        for value in rounds:
            if not 0 < value < math.inf:  # comparisons with NaN are false
                raise ValueError(
                    f"a round of pass {number} ran at {value} images/s, "
                    "expected a finite number above 0"
                )
    return [[math.log(value) for value in rounds] for rounds in passes]


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the samples lie, interpolated linearly.

    Raises:
        ValueError: No samples.
    """
    if not samples:
        raise ValueError("no samples to take a quantile of")
    return float(np.quantile(np.asarray(samples), share))
