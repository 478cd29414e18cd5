"""The plan: minimum, target and maximum duration of a measurement; pure functions.

In: settings, and intervals so far. Out: how many rounds and passes, and whether it is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.errors import SettingError
from toolkit.schema import Interval
from toolkit.settings import check_positive
from toolkit.statistics.intervals import precision as precision_of

DEFAULT_TIME_S = 3.0
SCENARIO_TIME_S = 10.0  # with LoadGen: an acceptable wait; MLPerf requires 600 s
PASSES = 8  # fresh processes: 8 give an interval a third narrower than 5
_MOST_ROUNDS_A_PASS = 20  # beyond that, a fresh process says more than another round
_LEAST_ROUNDS = 6
_ROUND_MARGIN = 1.1  # so that a round that is faster than the warm-up is also long enough


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate is timed for `min_time_s` seconds and `min_rounds` rounds at least, then on until
    its interval is as narrow as `precision` (0.01: ± 1 %), but no longer than `max_time_s` from the
    start of the whole. `round_s` is the least length of a round, `passes` the least number of
    worker processes one after another.

    Raises:
        SettingError: a value out of range.
    """

    min_time_s: float = DEFAULT_TIME_S
    min_rounds: int = 32
    precision: float | None = None
    max_time_s: float = 300.0
    round_s: float = 0.1
    passes: int = PASSES

    def __post_init__(self) -> None:
        check_positive("--min-time", self.min_time_s)
        check_positive("--max-time", self.max_time_s)
        check_positive("--min-rounds", self.min_rounds)
        if self.min_rounds < _LEAST_ROUNDS:
            raise SettingError(
                f"--min-rounds {self.min_rounds}: expected {_LEAST_ROUNDS} or more; fewer cannot "
                "carry a 95 % interval"
            )
        if self.precision is not None and not 0 < self.precision < 1:
            raise SettingError(
                f"--precision {self.precision}: expected a share above 0 and below 1, as 1% or 0.01"
            )
        if self.min_time_s > self.max_time_s:
            raise SettingError(
                f"--min-time {self.min_time_s:g} is more than --max-time {self.max_time_s:g}; "
                "raise --max-time, which holds for all candidates together"
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
        """Whether to stop after so many passes, with these intervals of the candidates' speeds."""
        if passes < self.least_passes:
            return False
        wanted = self.precision
        return wanted is None or all(precision_of(speed) <= wanted for speed in speeds)
