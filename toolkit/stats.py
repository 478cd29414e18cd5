"""Statistics of timings. Pure: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 4999


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and the bounds that hold it with 95 % confidence."""

    value: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """Median of the values, with a percentile-bootstrap interval (Efron 1979; scipy).

    The resampling is seeded: the same values give the same interval. With one value, or equal
    values, the interval is that value alone.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take the median of")
    median = float(np.median(values))
    if min(values) == max(values):
        return Interval(value=median, low=median, high=median)
    from scipy.stats import bootstrap

    bounds = bootstrap(
        (np.asarray(values),),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(
        value=median,
        low=min(float(bounds.low), median),  # the two may differ in the last bit
        high=max(float(bounds.high), median),
    )


def throughput(samples_s: Sequence[float], *, round_calls: int, batch_size: int) -> Interval:
    """Images/s: median over rounds of `round_calls` calls each, with its interval over rounds.

    Calls of one round share the machine's state of that moment, so rounds, not calls, are the
    independent samples.
    """
    rounds = [
        batch_size * round_calls / sum(samples_s[start : start + round_calls])
        for start in range(0, len(samples_s) - round_calls + 1, round_calls)
    ]
    return median_interval(rounds)


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the samples lie, interpolated linearly.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples to take a quantile of")
    return float(np.quantile(np.asarray(samples), share))
