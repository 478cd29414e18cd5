"""Ranking: speeds of several candidates → order and ties; pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from toolkit.schema import Interval, Rank
from toolkit.statistics.difference import ERROR_RATE, holm, student_t
from toolkit.statistics.intervals import (
    LEAST_PASSES,
    Passes,
    paired_difference,
    ratio_interval,
    speed_interval,
)

NEEDS = "needs six passes"
_NO_DIFFERENCE = 0.001
_LONGEST = 100


def rank(candidates: Mapping[str, Passes]) -> list[Rank]:
    """Return the candidates, fastest first, each compared with the one before it.

    Each interval is a 95 % interval on its own. Among ten equal candidates, some neighbour looks
    faster in about 1 run of 20. The fastest one, selected by chance, looks faster than some other
    in about every second run: to compare many with one, use a baseline that was chosen beforehand.
    A candidate that failed has no speed and must not be passed. Below six passes, no order is
    claimed: all neighbours are too close to call.

    Args:
        candidates: Passes of each candidate, by its name, from one run of interleaved rounds.

    Raises:
        ValueError: As for `ratio_interval`.
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
                too_close=to_faster is not None and (few(to_faster) or too_close(to_faster)),
                longer=longer(to_faster) if to_faster is not None else None,
                reason=NEEDS if to_faster is not None and few(to_faster) else None,
            )
        )
    return ranks


def contenders(speeds: Sequence[Passes]) -> list[int]:
    """Return the possible winners, and always the two with the highest speed; highest first.

    The highest of several speeds is an overestimate, because chance contributed to it. So the
    candidates found here are measured again, in new passes, and only the new passes count. Half of
    the error rate is used here, the other half for the new passes.
    """
    order = by_speed(speeds)
    close = fastest(speeds)
    return [at for at in order if at in close or at in order[:2]]


def fastest(speeds: Sequence[Passes]) -> list[int]:
    """Return the candidates that are not shown to be slower than the one with the highest speed, in
    order.

    Every pair is tested, by Student's t over passes, and all pairs share half of the error rate of
    5 % (Holm). Whichever candidate has the highest speed by chance, an equally fast one is not left
    out.

    Raises:
        ValueError: No candidate; otherwise as for `speed_interval`.
    """
    pairs = list(combinations(range(len(speeds)), 2))
    p_values = holm([_differ(speeds[one], speeds[other]) for one, other in pairs])
    apart = {
        frozenset(pair)
        for pair, p_value in zip(pairs, p_values, strict=True)
        if p_value <= ERROR_RATE / 2
    }
    highest = by_speed(speeds)[0]
    return [at for at in range(len(speeds)) if frozenset((at, highest)) not in apart]


def by_speed(speeds: Sequence[Passes]) -> list[int]:
    """Return their numbers, the highest speed first."""
    return sorted(range(len(speeds)), key=lambda at: -speed_interval(speeds[at]).value)


def _differ(one: Passes, other: Passes) -> float:
    """Return the p-value of "they are equally fast", two-sided; 1 if too few passes have both."""
    try:
        difference = paired_difference(one, other)
    except ValueError:
        return 1.0
    return min(1.0, 2 * min(difference.p_below(1), difference.p_above(1)))


def few(ratio: Interval) -> bool:
    """Return whether there are too few passes to claim a difference."""
    return ratio.passes < LEAST_PASSES


def too_close(ratio: Interval) -> bool:
    """Return whether the two may be equally fast: the interval of their ratio contains 1."""
    return ratio.low <= 1 <= ratio.high


def longer(ratio: Interval) -> float | None:
    """Return the factor by which the number of passes must grow until the interval excludes 1.

    By Student's t, the half-width is `t(passes - 1) * spread / sqrt(passes)`. The observed ratio
    and spread are taken as the true ones, so this is an estimate. None if the interval already
    excludes 1, if the two differ by less than 0.1 %, if more than 100 times the passes are needed,
    or if there is only one pass, which does not show the spread of passes.
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
