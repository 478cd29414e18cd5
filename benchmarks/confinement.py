"""What confinement costs: starts and calls of a worker, confined and as a plain process, in turns.

    python benchmarks/confinement.py --starts 50
    python benchmarks/confinement.py --runtime eager --starts 10

A plain worker is started as `python -P`, without confinement and without the code that confines.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import psutil

from toolkit.data import load_dataset
from toolkit.processes.confinement import Confinement, Needs, offered
from toolkit.schema import Settings
from toolkit.sessions import remote
from toolkit.sessions.candidates import checkpoint_candidate, subject_of
from toolkit.timing import Stopwatch

CHECKPOINT = Path(__file__).parent.parent / "models" / "mnist-cnn"
CALLS = 200
TIMEOUT_S = 300.0


class Plain(Confinement):
    """No confinement: the command is Python alone."""

    def __init__(self, scratch: Path, needs: Needs) -> None:
        self._lifeline = None
        self.command = [sys.executable, "-P"]


@contextmanager
def started_as(kind: type[Confinement]) -> Iterator[None]:
    with patch.object(remote, "Confinement", kind):
        yield


def one_worker(runtime: str, batch_size: int) -> tuple[float, float, float]:
    """Return the seconds until a worker has loaded, its processor time by then, which other load
    hardly changes, and the median time of its calls."""
    subject = subject_of(CHECKPOINT, [], model=None)
    candidate = checkpoint_candidate(subject, runtime, Settings(threads=1))
    images = load_dataset("test").images[: 5 * batch_size]
    watch = Stopwatch()
    with remote.RemoteSession(candidate, batch_size=batch_size, timeout_s=TIMEOUT_S) as session:
        session.load()
        start_s = watch.elapsed_s()
        processor_s = sum(psutil.Process(session.pid).cpu_times()[:2])
        session.prepare(images, batch_size=batch_size)
        calls_s = session.measure(calls=CALLS).samples_s[0]
        return start_s, processor_s, statistics.median(calls_s)


@click.command()
@click.option("--runtime", default="no-op", show_default=True)
@click.option("--starts", type=int, default=50, show_default=True, help="Starts of each kind.")
@click.option("--batch-size", type=int, default=1, show_default=True)
def main(runtime: str, starts: int, batch_size: int) -> None:
    """Start workers in turns, and compare the medians."""
    kinds = {"plain": Plain, "confined": Confinement}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for number in range(starts + 1):
        for name in sorted(kinds, reverse=bool(number % 2)):  # which is first alternates
            with started_as(kinds[name]):
                reading = one_worker(runtime, batch_size)
            if number:  # the first start of each reads from the disk
                found[name].append(reading)
    print(f"{runtime}, {starts} starts of each kind; confinement: {offered()}")
    facts = (("start", "ms", 1e3), ("processor time of a start", "ms", 1e3), ("call", "µs", 1e6))
    for place, (what, unit, scale) in enumerate(facts):
        plain, confined = (np.array([each[place] for each in found[name]]) for name in kinds)
        low, high = _interval(confined / plain)
        more = np.median(confined - plain) * scale
        medians = [f"{np.median(each) * scale:.2f} {unit}" for each in (plain, confined)]
        print(
            f"{what}: plain {medians[0]}, confined {medians[1]}; of neighbours {more:+.2f} {unit}, "
            f"ratio {np.median(confined / plain):.3f} [{low:.3f}-{high:.3f}]"
        )


def _interval(ratios: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
