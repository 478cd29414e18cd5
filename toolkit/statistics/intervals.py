"""Speeds → values with their intervals. Pure: numbers in, numbers out.

A candidate is measured in passes, each in fresh worker processes, and a pass has rounds. Passes
differ systematically (memory layout, placement of threads), so the rounds of one pass are not
independent samples of the candidate: passes are. Each pass counts as one value, the median of its
rounds, which a few disturbed rounds do not move. All of it is done on logarithms, so that a ratio
and its inverse have mirrored intervals.

The interval of a speed is Student's t over passes. That of a ratio is Wilcoxon's signed-rank test
turned round: were the two equally fast, swapping them in a pass would change nothing, so the
logarithm of their ratio is as likely above 0 as below, whatever disturbs the machine. Then the test
is exact, and one pass in which something else ran moves its interval little, where Student's t
would widen it beyond use. It needs six passes; with fewer, Student's t must do.

Why no bootstrap over passes and rounds: the median of a pass carries the noise of its rounds
already. To resample the rounds as well counts that noise twice (Davison and Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8), and with 3 to 10 rounds a resample often
consists of the outliers that the median is there to resist: scaled for few passes (Hesterberg
2015), its intervals are 1.3 to 5 times as wide, and call two equals different in 0 to 1 % of runs
instead of 5 %. To resample passes alone, so scaled, gives what Student's t gives;
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

LEAST_PASSES = 6  # to tell two apart: of five values, not even all hold the median with 95 %
_MIN_ROUNDS_OF_ONE_PASS = 6  # 2 * 0.5**6 < 5 %: fewer rounds carry no interval for a median

Passes = Sequence[Sequence[float]]
"""Images/s of each round of each pass; an empty pass is one that gave nothing, and is left out."""


def speed_interval(passes: Passes) -> Interval:
    """Throughput in images/s: geometric mean over passes of the median round.

    The median within a pass, because a shared machine makes rounds slow, never fast, and the mean
    would follow them. The mean over passes, because medians of 2 to 10 values waste what little
    there is, and because Student's t belongs to it.

    Raises:
        ValueError: no round; a value that is not a finite positive number; one pass alone with
            fewer than 6 rounds.
    """
    return _interval(_logs(passes))


def ratio_interval(candidate: Passes, baseline: Passes) -> Interval:
    """Speed of the candidate over that of the baseline (1.0: equal), both of one run.

    Rounds of the same number in the same pass were measured side by side, so what the machine did
    in that minute cancels in their ratio. Rounds that only one of the two has are left out.

    Raises:
        ValueError: no round in common; otherwise as for `speed_interval`.
    """
    pairs = _pairs(candidate, baseline)
    medians = _medians(pairs)
    return _signed_rank(medians) if len(medians) >= LEAST_PASSES else _interval(pairs)


def paired_difference(candidate: Passes, baseline: Passes) -> Difference:
    """The same as `ratio_interval`, by Student's t for any number of passes, so that it gives
    p-values that can be corrected for many comparisons: those of ranks have too few steps.

    Raises:
        ValueError: fewer than 2 passes in common; otherwise as for `ratio_interval`.
    """
    return of_one(_medians(_pairs(candidate, baseline)))


def pass_logs(passes: Passes) -> list[float | None]:
    """The logarithm of the median round of each pass, in place; None where a pass gave nothing.

    Raises:
        ValueError: no round; a value that is not a finite positive number.
    """
    return [median(rounds) if rounds else None for rounds in _logs(passes)]


def relative_half_width(interval: Interval) -> float:
    """Half the width relative to the value (0.02: ± 2 %), of the longer side."""
    return max(interval.high - interval.value, interval.value - interval.low) / interval.value


def _interval(logs: Sequence[Sequence[float]]) -> Interval:
    """Student's t interval (1908) over the medians of the passes, brought back from logarithms."""
    medians = _medians(logs)
    if len(medians) == 1:
        return _one_pass(next(rounds for rounds in logs if rounds))
    return of_one(medians).interval()


def _signed_rank(logs: Sequence[float]) -> Interval:
    """Hodges and Lehmann's estimate (1963) of 6 or more values, with the interval that belongs to
    it: the median of all means of two of them (each with itself too), between two of those."""
    pairs = combinations_with_replacement(logs, 2)
    means = sorted((one + other) / 2 for one, other in pairs)
    outside = _rank_sums_outside(len(logs))
    low, value, high = means[outside], median(means), means[-1 - outside]
    bounds = [math.exp(log) for log in (low, value, high)]
    return Interval(value=bounds[1], low=bounds[0], high=bounds[2], passes=len(logs))


@lru_cache
def _rank_sums_outside(count: int) -> int:
    """The most means of two, of `count` values, that may lie beyond either bound of a 95 %
    interval: the largest rank sum that is not exceeded in 2.5 % of cases at most (tables of the
    signed-rank test have it: 0 of 6 values, 3 of 8, 8 of 10).

    The sum's distribution is exact: each rank 1..count counts or not, all sets equally likely.
    """
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.concatenate(([0.5], np.zeros(rank - 1), [0.5])))
    below = np.cumsum(ways)
    return int(np.searchsorted(below, (1 - CONFIDENCE) / 2, side="right")) - 1


def _one_pass(logs: Sequence[float]) -> Interval:
    """Median of the rounds between two of them: the sign test turned round (Thompson 1936)."""
    if len(logs) < _MIN_ROUNDS_OF_ONE_PASS:
        raise ValueError(
            f"one pass of {len(logs)} rounds carries no interval, expected "
            f"{_MIN_ROUNDS_OF_ONE_PASS} rounds or more, or 2 passes"
        )
    from scipy.stats import quantile_test

    bounds = quantile_test(logs, p=0.5).confidence_interval(CONFIDENCE)
    low, value, high = (math.exp(log) for log in (bounds.low, median(logs), bounds.high))
    return Interval(value=value, low=low, high=high, passes=1)


def _pairs(candidate: Passes, baseline: Passes) -> list[list[float]]:
    """Logarithms of the ratios of rounds side by side; at least one."""
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
    """The logarithms of all values, checked; passes keep their place."""
    if not any(len(rounds) for rounds in passes):
        raise ValueError("no round was measured, expected at least one speed in images/s")
    for number, rounds in enumerate(passes, start=1):
        for value in rounds:
            if not 0 < value < math.inf:  # NaN compares false
                raise ValueError(
                    f"a round of pass {number} ran at {value} images/s, "
                    "expected a finite number above 0"
                )
    return [[math.log(value) for value in rounds] for rounds in passes]


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the samples lie, interpolated linearly.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples to take a quantile of")
    return float(np.quantile(np.asarray(samples), share))
