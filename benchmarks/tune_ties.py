"""Measure how often tune calls one of several equal candidates faster, and by how much its winner
is overestimated.

    python benchmarks/tune_ties.py --runs 1000        # simulated, no clock

The two stages of finalists use tune's own rules (`toolkit.statistics.ranking`). Passes differ by
some percent; one finalist may be faster than the others, which are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import click
import numpy as np

from toolkit.statistics.intervals import Passes, ratio_interval, speed_interval
from toolkit.statistics.ranking import by_speed, contenders, fastest
from toolkit.tuning.search import _FRESH, _LAST


def stage(
    random: np.random.Generator, levels: Sequence[float], passes: int, rounds: int
) -> list[Passes]:
    """Return speeds `[finalist][pass][round]`. Passes differ by 3 %, rounds by 2 %, and one round
    in 20 is slow."""
    shape = len(levels), passes, rounds
    logs = np.log(levels)[:, None, None] + random.normal(0, 0.03, shape[:2])[..., None]
    logs = logs + random.normal(0, 0.02, shape)
    logs -= (random.random(shape) < 0.05) * random.exponential(0.2, shape)
    speeds: list[Passes] = np.exp(logs).tolist()
    return speeds


def reading(random: np.random.Generator, levels: Sequence[float]) -> dict[str, float]:
    """Simulate one tuning. `before` is the rule without new passes: the highest speed is published,
    and each candidate whose own interval excludes 1 is called slower."""
    first = stage(random, levels, _LAST.passes, _LAST.rounds_per_pass)
    highest = by_speed(first)[0]
    others = [at for at in range(len(levels)) if at != highest]
    before = [at for at in others if ratio_interval(first[at], first[highest]).high < 1]
    leading = contenders(first)
    again = [levels[at] for at in leading]
    fresh = stage(random, again, _FRESH.passes, _FRESH.rounds_per_pass)
    close = [leading[at] for at in fastest(fresh)]
    winner = close[0]
    equals = [at for at in range(len(levels)) if levels[at] == max(levels)]
    return {
        "an equal called slower": any(at not in close for at in equals),
        "an equal called slower, before": any(at in before for at in equals),
        "faster than all others": len(close) == 1,
        "faster than all others, before": len(before) == len(others),
        "winner too fast": np.log(speed_interval(fresh[leading.index(winner)]).value)
        - np.log(levels[winner])
        - typical(_FRESH.rounds_per_pass),
        "winner too fast, before": np.log(speed_interval(first[highest]).value)
        - np.log(levels[highest])
        - typical(_LAST.rounds_per_pass),
    }


@cache
def typical(rounds: int) -> float:
    """Return the logarithm of the speed that very many passes give at level 1."""
    many = stage(np.random.default_rng(0), [1.0], 100_000, rounds)[0]
    return float(np.median(np.log(many), axis=1).mean())


@click.command()
@click.option("--runs", type=int, default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(runs: int, seed: int) -> None:
    """Print the means over `runs` tunings, for several sets of finalists."""
    for name, levels in (
        *((f"{count} equals", (1.0,) * count) for count in (2, 3, 5)),
        ("the first of 5 is 5 % faster", (1.05, 1.0, 1.0, 1.0, 1.0)),
        ("the first of 5 is 10 % faster", (1.1, 1.0, 1.0, 1.0, 1.0)),
    ):
        random = np.random.default_rng(seed)
        readings = [reading(random, levels) for _ in range(runs)]
        means = {key: float(np.mean([each[key] for each in readings])) for key in readings[0]}
        print(f"{name}:", "; ".join(f"{key} {mean:.2%}" for key, mean in means.items()), flush=True)


if __name__ == "__main__":
    main()
