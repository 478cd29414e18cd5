"""The plan: minimum duration, target width and maximum duration of a measurement; pure functions.

In: settings, and intervals so far. Out: how many rounds and passes, and whether it is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.errors import SettingError
from toolkit.schema import Interval
from toolkit.settings import check_positive
from toolkit.statistics.intervals import relative_half_width

DEFAULT_TIME_S = 3.0
PASSES = 8  # fresh processes: with 8, an interval is a third narrower than with 5
_MOST_ROUNDS_A_PASS = 20  # beyond that, a fresh process adds more information than another round
_LEAST_ROUNDS = 6
_ROUND_MARGIN = 1.1  # so that a round that is faster than the warm-up is also long enough


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate is timed for at least `min_time_s` seconds and `min_rounds` rounds. Measuring
    continues until its interval is as narrow as `target_width` (0.01: ± 1 %), and ends `max_time_s`
    seconds after the start of the whole measurement. `round_s` is the minimum length of a round,
    `passes` the minimum number of worker processes, which run one after another.

    Raises:
        SettingError: A value out of range.
    """

    min_time_s: float = DEFAULT_TIME_S
    min_rounds: int = 32
    target_width: float | None = None
    max_time_s: float = 300.0
    round_s: float = 0.1
    passes: int = PASSES

    def __post_init__(self) -> None:
        check_times(self.min_time_s, self.max_time_s)
        check_positive("--min-rounds", self.min_rounds)
        if self.min_rounds < _LEAST_ROUNDS:
            raise SettingError(
                f"--min-rounds {self.min_rounds}: expected {_LEAST_ROUNDS} or more; fewer "
                "rounds give no 95 % interval"
            )
        if self.target_width is not None and not 0 < self.target_width < 1:
            raise SettingError(
                f"--target-width {self.target_width}: expected a share above 0 and below 1, such "
                "as 1% or 0.01"
            )

    @property
    def least_passes(self) -> int:
        """Return the number of passes before the target width is checked."""
        return max(self.passes, math.ceil(self._rounds / _MOST_ROUNDS_A_PASS))

    @property
    def rounds_per_pass(self) -> int:
        """Return the rounds of each candidate in each pass."""
        return math.ceil(self._rounds / self.least_passes)

    @property
    def _rounds(self) -> int:
        return max(self.min_rounds, math.ceil(self.min_time_s / self.round_s))

    def calls_per_round(self, call_s: float, *, most: int) -> int:
        """Return how many calls of `call_s` seconds make a round; at most `most`."""
        return max(1, min(most, math.ceil(_ROUND_MARGIN * self.round_s / call_s)))

    def enough(self, passes: int, speeds: Iterable[Interval]) -> bool:
        """Return whether to stop after this many passes, with these intervals of the candidates'
        speeds."""
        if passes < self.least_passes:
            return False
        wanted = self.target_width
        return wanted is None or all(relative_half_width(speed) <= wanted for speed in speeds)


def check_times(min_time_s: float, max_time_s: float) -> None:
    """Raise SettingError unless both are positive and the first is at most the second."""
    check_positive("--min-time", min_time_s)
    check_positive("--max-time", max_time_s)
    if min_time_s > max_time_s:
        raise SettingError(
            f"--min-time {min_time_s:g} is more than --max-time {max_time_s:g}; raise --max-time"
        )


QUICK = Plan(min_time_s=0.9, min_rounds=9, passes=3)
"""For a quick look: intervals are wide, and small differences stay undecided."""


def plan_of(plan: Plan | None, *, quick: bool) -> Plan:
    """Return the plan to use.

    Raises:
        SettingError: A quick run has its own plan, but another one is given.
    """
    if quick and plan is not None:
        raise SettingError("--quick sets how long to measure; remove it, or the plan")
    return plan or (QUICK if quick else Plan())
