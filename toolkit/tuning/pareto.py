"""The Pareto set of several trials, and the one to recommend; pure functions.

In: trials that ran and are acceptable. Out: the Pareto set, a recommendation with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.schema import Constraints, Trial


def pareto_set(trials: Sequence[Trial]) -> set[str]:
    """Return the names of the trials for which no other is at least as good in throughput, latency,
    size and accuracy, and better in one. Equal trials both stay."""
    points = {each.name: _merits(each) for each in trials}
    return {
        name
        for name, own in points.items()
        if not any(_dominates(other, own) for other in points.values())
    }


def keeps(trial: Trial, wanted: Constraints) -> bool:
    """Return whether it ran, passed the comparison with its checkpoint, and keeps the
    constraints."""
    return (
        trial.status == "passed"
        and trial.images_per_s is not None
        and (wanted.max_latency_s is None or (trial.latency_s or 0) <= wanted.max_latency_s)
        and (wanted.max_size_bytes is None or trial.size_bytes <= wanted.max_size_bytes)
    )


def preferred(close: Sequence[Trial]) -> tuple[Trial, list[Trial]]:
    """Return the preferred trial among those that are too close to call, and the others: the one
    with the fewest flips, then the smallest, then the first.

    Raises:
        ValueError: No trials.
    """
    if not close:
        raise ValueError("no trial to choose from")
    best = min(close, key=lambda each: (each.flips or 0, each.size_bytes, close.index(each)))
    return best, [each for each in close if each is not best]


def _merits(trial: Trial) -> tuple[float, float, float, float]:
    speed = trial.images_per_s.value if trial.images_per_s else 0.0
    return speed, -(trial.latency_s or 0.0), -trial.size_bytes, trial.accuracy or 0.0


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
