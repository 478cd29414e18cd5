"""Speeds of several candidates → who is faster, and where that is too close to call. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from toolkit.measuring.difference import student_t
from toolkit.measuring.stats import Passes, ratio_interval, speed_interval
from toolkit.schema import Interval, Rank

_NO_DIFFERENCE = 0.001
_LONGEST = 100


def rank(candidates: Mapping[str, Passes]) -> list[Rank]:
    """The candidates, fastest first, each compared with the one before it.

    Each interval is a 95 % one by itself. Among ten equals some neighbour looks faster in about 1
    run of 20, but the fastest, which is so by luck, looks faster than some other in about every
    second: to compare many with one, compare them with a baseline that was chosen beforehand. A
    candidate that failed has no speed and does not belong here.

    Args:
        candidates: Passes of each candidate, by its name, from one run of interleaved rounds.

    Raises:
        ValueError: as for `ratio_interval`.
    """
    speeds = {name: speed_interval(passes) for name, passes in candidates.items()}
    order = sorted(speeds, key=lambda name: -speeds[name].value)
    ranks = []
    for place, name in enumerate(order):
        before = candidates[order[place - 1]]
        to_faster = ratio_interval(candidates[name], before) if place else None
        ranks.append(
            Rank(
                name=name,
                speed=speeds[name],
                to_faster=to_faster,
                too_close=to_faster is not None and too_close(to_faster),
                longer=longer(to_faster) if to_faster is not None else None,
            )
        )
    return ranks


def too_close(ratio: Interval) -> bool:
    """Whether the two may be equally fast: the interval of their ratio holds 1."""
    return ratio.low <= 1 <= ratio.high


def longer(ratio: Interval) -> float | None:
    """By what factor the number of passes must grow until the interval leaves 1 out.

    As Student's t has it: the half-width is `t(passes - 1) * spread / sqrt(passes)`; the ratio and
    the spread seen are taken for the true ones, which makes it a guess, not a promise. None where
    the interval leaves 1 out already, where the two differ by less than 0.1 %, where it would take
    more than 100 times the passes, and where one pass alone does not tell how passes spread.
    """
    difference, passes = abs(math.log(ratio.value)), ratio.passes
    if not too_close(ratio) or difference < _NO_DIFFERENCE or passes < 2:
        return None
    half_width = math.log(ratio.high / ratio.low) / 2
    spread = half_width * math.sqrt(passes) / student_t(passes - 1)
    for more in range(passes + 1, _LONGEST * passes + 1):
        if student_t(more - 1) * spread / math.sqrt(more) < difference:
            return more / passes
    return None
