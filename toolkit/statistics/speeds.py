"""Passes of a candidate → what may be said of its speed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from toolkit.schema import Interval, Outliers, Pass, Percentile
from toolkit.statistics.intervals import ratio_interval, speed_interval
from toolkit.statistics.samples import outliers, percentile

_SHARES = (0.5, 0.9, 0.99)


def speeds_of(passes: Sequence[Pass], batch_size: int) -> list[list[float]]:
    """Images/s of each round of each pass. Calls of one round share the machine's state of that
    moment, so rounds, not calls, are the samples."""
    return [[each.images_per_s(batch_size) for each in one.rounds] for one in passes]


def throughput(passes: Sequence[Pass], batch_size: int) -> Interval | None:
    """Images/s with its interval; None where the rounds are too few to carry one."""
    try:
        return speed_interval(speeds_of(passes, batch_size))
    except ValueError:
        return None


def speed_ratio(candidate: Sequence[Pass], baseline: Sequence[Pass]) -> Interval | None:
    """Speed of the candidate over that of the baseline, at the same batch size, from rounds side by
    side; None where there are too few."""
    try:
        return ratio_interval(speeds_of(candidate, 1), speeds_of(baseline, 1))
    except ValueError:
        return None


def repeat_ratio(passes: Sequence[Pass]) -> Interval | None:
    """Speed on one input again and again over that on inputs that rotate; None where fewer than
    two passes have both."""
    shares = repeat_shares(passes)
    if len(shares) < 2:
        return None
    return ratio_interval([[1 / share] for share in shares], [[1.0]] * len(shares))


def repeat_shares(passes: Sequence[Pass]) -> list[float]:
    """Time on a repeated input over that on inputs that rotate, of each pass that has both. Near 0
    in all passes where answers come from a cache, however the few microseconds scatter."""
    return [
        median(each.images_per_s(1) for each in one.rounds) / one.repeated.images_per_s(1)
        for one in passes
        if one.repeated is not None and one.rounds
    ]


def page_faults(passes: Sequence[Pass]) -> float | None:
    """Pages of memory that a call was given, in the median round; None where there is none."""
    rounds = [each for one in passes for each in one.rounds]
    return median(each.page_faults / each.calls for each in rounds) if rounds else None


def call_times(passes: Sequence[Pass]) -> list[float]:
    """Wall time in seconds of each timed call, all streams, rounds and passes."""
    rounds = [each for one in passes for each in one.rounds]
    return [call_s for each in rounds for stream in each.samples_s for call_s in stream]


def latencies(passes: Sequence[Pass]) -> tuple[Percentile, ...]:
    """Median, p90 and p99 of a call in seconds; of which those that the calls can carry."""
    times_s = call_times(passes)
    return tuple(percentile(times_s, share) for share in _SHARES) if times_s else ()


def call_outliers(passes: Sequence[Pass]) -> Outliers | None:
    """Outliers among the calls. They are counted, and kept in everything else."""
    times_s = call_times(passes)
    return outliers(times_s) if times_s else None
