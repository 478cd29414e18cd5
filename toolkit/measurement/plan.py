"""How long to measure: the least, the wanted width of intervals, the most. Pure.

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
PASSES = 8  # fresh processes: 8 give one a third narrower than 5
_MOST_ROUNDS_A_PASS = 20  # after that a fresh process tells more than another round
_LEAST_ROUNDS = 6
_ROUND_MARGIN = 1.1  # so that a round that runs faster than the warm-up is long enough too


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate is timed for `min_time_s` seconds and `min_rounds` rounds at least, then on until
    its interval is as narrow as `target_width` (0.01: ± 1 %), but no longer than `max_time_s` from
    the start of the whole. `round_s` is the least length of a round, `passes` the least number of
    worker processes one after another.

    Raises:
        SettingError: a value out of range.
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
                f"--min-rounds {self.min_rounds}: expected {_LEAST_ROUNDS} or more; fewer cannot "
                "carry a 95 % interval"
            )
        if self.target_width is not None and not 0 < self.target_width < 1:
            raise SettingError(
                f"--target-width {self.target_width}: expected a share above 0 and below 1, as 1% "
                "or 0.01"
            )

    @property
    def least_passes(self) -> int:
        """Passes that are measured whatever the width of the intervals."""
        return max(self.passes, math.ceil(self._rounds / _MOST_ROUNDS_A_PASS))

    @property
    def rounds_per_pass(self) -> int:
        """Rounds that each candidate has in each pass."""
        return math.ceil(self._rounds / self.least_passes)

    @property
    def _rounds(self) -> int:
        return max(self.min_rounds, math.ceil(self.min_time_s / self.round_s))

    def calls_per_round(self, call_s: float, *, most: int) -> int:
        """Calls of `call_s` seconds each that make a round; at most `most`, whatever they take."""
        return max(1, min(most, math.ceil(_ROUND_MARGIN * self.round_s / call_s)))

    def enough(self, passes: int, speeds: Iterable[Interval]) -> bool:
        """Whether to stop after so many passes, with these intervals of the candidates' speeds."""
        if passes < self.least_passes:
            return False
        wanted = self.target_width
        return wanted is None or all(relative_half_width(speed) <= wanted for speed in speeds)


def check_times(min_time_s: float, max_time_s: float) -> None:
    """Raise SettingError unless both are positive and the first is not more than the second."""
    check_positive("--min-time", min_time_s)
    check_positive("--max-time", max_time_s)
    if min_time_s > max_time_s:
        raise SettingError(
            f"--min-time {min_time_s:g} is more than --max-time {max_time_s:g}; raise --max-time"
        )
