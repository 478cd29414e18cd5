"""Speeds of several candidates → who is faster, and where that is too close to call. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.stats import Interval, Passes, ratio_interval, speed_interval, student_t

_NO_DIFFERENCE = 0.001
_LONGEST = 100


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One candidate's place among the others of its run.

    Attributes:
        name: The key under which it came.
        speed: Images/s.
        to_faster: Its speed over that of the one before it, from paired rounds; None for the first.
        to_baseline: Its speed over that of the baseline, likewise; None for the baseline itself.
        too_close: The one before it may be as fast: `to_faster` holds 1.
        longer: Where too close: how many times as many passes would tell the two apart. None
            where more than 100 times as many would be needed, or cannot be said.
    """

    name: str
    speed: Interval
    to_faster: Interval | None
    to_baseline: Interval | None
    too_close: bool
    longer: float | None


def rank(candidates: Mapping[str, Passes], *, baseline: str | None = None) -> list[Rank]:
    """The candidates, fastest first, each compared with the one before it and with the baseline.

    Each interval is a 95 % one by itself. Among ten equals some neighbour looks faster in about 1
    run of 20, but the fastest, which is so by luck, looks faster than some other in about every
    second: to compare many with one, name a baseline. A candidate that failed has no speed and
    does not belong here.

    Args:
        candidates: Passes of each candidate, by its name, from one run of interleaved rounds.
        baseline: A name among them; None is the fastest.

    Raises:
        ValueError: a baseline that is not among them; otherwise as for `ratio_interval`.
    """
    if baseline is not None and baseline not in candidates:
        raise ValueError(f"the baseline is {baseline!r}, expected one of {sorted(candidates)}")
    speeds = {name: speed_interval(passes) for name, passes in candidates.items()}
    order = sorted(speeds, key=lambda name: -speeds[name].value)
    ranks = []
    for place, name in enumerate(order):
        against = baseline or order[0]
        passes = candidates[name]
        to_faster = ratio_interval(passes, candidates[order[place - 1]]) if place else None
        ranks.append(
            Rank(
                name=name,
                speed=speeds[name],
                to_faster=to_faster,
                to_baseline=(
                    None if name == against else ratio_interval(passes, candidates[against])
                ),
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

    The half-width is `t(passes - 1) * spread / sqrt(passes)`; the ratio and the spread seen are
    taken for the true ones, which makes it a guess, not a promise. None where the interval leaves
    1 out already, where the two differ by less than 0.1 %, where it would take more than 100
    times the passes, and where one pass alone does not tell how passes spread.
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
