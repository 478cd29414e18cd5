"""Statistics of a list of raw values: percentiles, outliers, steadiness; pure functions.

In: times of calls, or speeds of rounds, in any unit. Nothing is removed from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from toolkit.schema import Outliers, Percentile
from toolkit.statistics.difference import CONFIDENCE
from toolkit.statistics.intervals import quantile

_STEADY_HALF = 3
STEADY_VALUES = 2 * _STEADY_HALF  # fewer values cannot show it
_STEADY_TOLERANCE = 0.03


def percentile(samples: Sequence[float], share: float) -> Percentile:
    """Return the percentile at `share` (0..1, exclusive), interpolated linearly, or no value.

    Raises:
        ValueError: No samples, or one that is not finite; a share outside 0..1.
    """
    _check(samples)
    needed = samples_needed(share)
    value = quantile(samples, share) if len(samples) >= needed else None
    return Percentile(share=share, value=value, samples=len(samples), samples_needed=needed)


def samples_needed(share: float) -> int:
    """Return how many samples the percentile at `share` needs: 29 for p90, 299 for p99, 2,995 for
    p99.9.

    This is the smallest number for which one sample lies beyond the true percentile with 95 %
    confidence, for any distribution: 1 - share**n >= 0.95. With fewer, no sample bounds it (David
    and Nagaraja 2003, "Order Statistics", section 7.1). Below the median, the same holds for the
    other end.

    Raises:
        ValueError: A share outside 0..1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share is {share}, expected a number between 0 and 1, such as 0.99")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(max(share, 1 - share)))


def outliers(samples: Sequence[float]) -> Outliers:
    """Count outliers with Tukey's fences (1977), as criterion.rs does.

    Mild outliers are more than 1.5 interquartile ranges outside the quartiles, severe ones more
    than 3. Of normal samples, 0.7 % are outliers.

    Raises:
        ValueError: No samples, or one that is not finite.
    """
    _check(samples)
    first, third = quantile(samples, 0.25), quantile(samples, 0.75)
    width = third - first
    below = [sum(value < first - far * width for value in samples) for far in (1.5, 3)]
    above = [sum(value > third + far * width for value in samples) for far in (1.5, 3)]
    return Outliers(
        samples=len(samples),
        low_severe=below[1],
        low_mild=below[0] - below[1],
        high_mild=above[0] - above[1],
        high_severe=above[1],
    )


def steady(values: Sequence[float]) -> bool:
    """Return whether the warm-up is over, from the medians of its short rounds so far (speeds or
    times).

    It is over if the last three values and the three before them have medians within 3 % of each
    other, and the six do not all rise or all fall, which six random values do once in 360 times.
    Noise does not count, but a trend does. Fewer than six values are not steady.

    Raises:
        ValueError: A value that is not a finite positive number.
    """
    if not all(0 < value < math.inf for value in values):
        raise ValueError(f"got {list(values)}, expected finite numbers above 0")
    last = list(values[-STEADY_VALUES:])
    if len(last) < STEADY_VALUES:
        return False
    before, after = median(last[:_STEADY_HALF]), median(last[_STEADY_HALF:])
    steps = [later - earlier for earlier, later in pairwise(last)]
    trend = all(step > 0 for step in steps) or all(step < 0 for step in steps)
    return not trend and abs(after - before) <= _STEADY_TOLERANCE * before


def _check(samples: Sequence[float]) -> None:
    """Check that all samples are finite. Zero is allowed: a coarse clock may read it."""
    if not samples:
        raise ValueError("no samples")
    for value in samples:
        if not math.isfinite(value):
            raise ValueError(f"a sample is {value}, expected a finite number")
