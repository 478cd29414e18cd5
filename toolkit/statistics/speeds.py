"""Speeds of a candidate, derived from its passes; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from toolkit.schema import Interval, Outliers, Pass, Percentile
from toolkit.statistics.intervals import ratio_interval, speed_interval
from toolkit.statistics.samples import outliers, percentile

_SHARES = (0.5, 0.9, 0.99)


def speeds_of(passes: Sequence[Pass], batch_size: int) -> list[list[float]]:
    """Return images/s of each round of each pass. Calls of one round share the state of the machine
    at that time, so rounds, not calls, are the samples."""
    return [[each.images_per_s(batch_size) for each in one.rounds] for one in passes]


def throughput(passes: Sequence[Pass], batch_size: int) -> Interval | None:
    """Return images/s with its interval; None if there are too few rounds."""
    try:
        return speed_interval(speeds_of(passes, batch_size))
    except ValueError:
        return None


def speed_ratio(candidate: Sequence[Pass], baseline: Sequence[Pass]) -> Interval | None:
    """Return the speed of the candidate divided by that of the baseline, at the same batch size,
    from paired rounds; None if there are too few."""
    try:
        return ratio_interval(speeds_of(candidate, 1), speeds_of(baseline, 1))
    except ValueError:
        return None


def repeat_ratio(passes: Sequence[Pass]) -> Interval | None:
    """Return the speed on a repeated input divided by that on rotating inputs; None if fewer than
    two passes have both."""
    shares = repeat_shares(passes)
    if len(shares) < 2:
        return None
    return ratio_interval([[1 / share] for share in shares], [[1.0]] * len(shares))


def repeat_shares(passes: Sequence[Pass]) -> list[float]:
    """Return the time on a repeated input divided by that on rotating inputs, for each pass that
    has both. It is near 0 in all passes if answers come from a cache, however the few microseconds
    vary."""
    return [
        median(each.images_per_s(1) for each in one.rounds) / one.repeated.images_per_s(1)
        for one in passes
        if one.repeated is not None and one.rounds
    ]


def page_faults(passes: Sequence[Pass]) -> float | None:
    """Return the pages of memory per call in the median round; None if there is none."""
    rounds = [each for one in passes for each in one.rounds]
    return median(each.page_faults / each.calls for each in rounds) if rounds else None


def call_times(passes: Sequence[Pass]) -> list[float]:
    """Return the wall time in seconds of each timed call, for all streams, rounds and passes."""
    rounds = [each for one in passes for each in one.rounds]
    return [call_s for each in rounds for stream in each.samples_s for call_s in stream]


def latencies(passes: Sequence[Pass]) -> tuple[Percentile, ...]:
    """Return median, p90 and p99 of a call in seconds, if there are enough calls."""
    times_s = call_times(passes)
    return tuple(percentile(times_s, share) for share in _SHARES) if times_s else ()


def call_outliers(passes: Sequence[Pass]) -> Outliers | None:
    """Return the outliers among the calls. They are counted, and stay in all other figures."""
    times_s = call_times(passes)
    return outliers(times_s) if times_s else None
