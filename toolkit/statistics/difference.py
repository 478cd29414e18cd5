"""Differences of logarithms → intervals and p-values; pure functions.

In: one value per pass, the logarithm of a speed or of a ratio. Out: a `Difference`, which gives the
interval of the ratio and the p-value of a claim about it; and Holm's correction, which makes
several claims share one error rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, variance

from toolkit.schema import Interval

CONFIDENCE = 0.95
ERROR_RATE = 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean of logarithms or a difference of two means.

    `error` is its standard error, `freedom` Student's degrees of freedom, `passes` the number of
    passes; for two samples, the smaller number.
    """

    centre: float
    error: float
    freedom: float
    passes: int

    def interval(self) -> Interval:
        """Return Student's 95 % interval of the ratio whose logarithm this is."""
        half_width = student_t(self.freedom) * self.error if self.error else 0.0
        low, value, high = (math.exp(self.centre + side * half_width) for side in (-1, 0, 1))
        return Interval(value=value, low=low, high=high, passes=self.passes)

    def p_below(self, ratio: float) -> float:
        """Return the p-value of "the true ratio is `ratio` or more"; small if the ratio is shown to
        be lower.

        One-sided: it is below 2.5 % exactly if the whole 95 % interval lies below `ratio`.
        """
        return self.p_less(math.log(ratio))

    def p_above(self, ratio: float) -> float:
        """Return the p-value of "the true ratio is `ratio` or less"; see `p_below`."""
        mirrored = replace(self, centre=-self.centre)
        return mirrored.p_less(-math.log(ratio))

    def p_less(self, value: float) -> float:
        """Return the p-value of "the true centre is `value` or more", on the scale of the
        centre."""
        from scipy.special import stdtr

        distance = self.centre - value
        if not self.error:
            return 0.0 if distance < 0 else 1.0
        return float(stdtr(self.freedom, distance / self.error))


def of_one(values: Sequence[float]) -> Difference:
    """Return the mean of the values, with Student's t test (1908).

    Raises:
        ValueError: Fewer than 2 values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} passes, expected at least 2")
    error = math.sqrt(variance(values) / count)
    return Difference(centre=mean(values), error=error, freedom=count - 1, passes=count)


def of_two(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Return the mean of `new` minus that of `old`, with Welch's test (1947) and the degrees of
    freedom of Welch and Satterthwaite.

    Raises:
        ValueError: Fewer than 2 values in either.
    """
    for name, values in (("new", new), ("old", old)):
        if len(values) < 2:
            raise ValueError(f"the {name} run has 1 pass, expected at least 2 to compare runs")
    shares = [variance(values) / len(values) for values in (new, old)]
    parts = [share**2 / (len(values) - 1) for share, values in zip(shares, (new, old), strict=True)]
    freedom = sum(shares) ** 2 / sum(parts) if sum(parts) > 0 else math.inf
    return Difference(
        centre=mean(new) - mean(old),
        error=math.sqrt(sum(shares)) if sum(parts) > 0 else 0.0,
        freedom=freedom,
        passes=min(len(new), len(old)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number: those of at most 5 % hold together.

    Holm's step-down procedure (1979): the probability that any true hypothesis is rejected stays
    below the rate, however the tests depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, at in enumerate(order):
        highest = max(highest, min(1.0, p_values[at] * (len(p_values) - place)))
        corrected[at] = highest
    return corrected


def student_t(freedom: float) -> float:
    """Return the factor of a two-sided 95 % interval: 12.7 with 1 degree of freedom, 3.2 with 3."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
