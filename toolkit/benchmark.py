"""Benchmark: rounds of all candidates, interleaved → measurements."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.candidates import NULL, Candidate, Subject, checkpoint_candidate, find_subject, line_up
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import FailedRun, SettingError
from toolkit.progress import Progress, silent
from toolkit.results import start_results
from toolkit.schema import Device, Measurement, Results, Settings
from toolkit.settings import check_positive, session_settings
from toolkit.stats import quantile, speed_interval
from toolkit.targets import RemoteSession, open_sessions
from toolkit.timing import DISTINCT_BATCHES

_MIN_ROUNDS = 6  # 2 * 0.5**6 < 5 %: fewer rounds cannot carry a 95 % interval
_MIN_WARMUP_CALLS = 3


def bench(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    device: Device = "cpu",
    rounds: int = 20,
    round_s: float = 0.2,
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Results:
    """Measure throughput and latency of artifacts, the null runtime beside them.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.runtimes.RUNTIMES`; none means all that load the artifacts.
        checkpoint: The checkpoint folder, where it is not the one that the manifest names.
        data: Folder of IDX files whose test images are the inputs; None is the bundled MNIST.
        batch_size: Images a call.
        threads: Intra-op threads of each session; None takes all usable cores.
        device: `cpu` or `cuda`.
        rounds: Rounds a candidate; their spread makes the interval.
        round_s: Wanted length of a round in seconds.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about warm-up and rounds.

    Returns:
        Results with one measurement a candidate, raw samples included.

    Raises:
        ToolkitError: bad input.
    """
    settings = session_settings(threads, device, batch_size=batch_size, timeout_s=timeout_s)
    plan = RoundPlan(batch_size=batch_size, rounds=rounds, round_s=round_s, progress=progress)
    subject = find_subject(paths, checkpoint=checkpoint, model=model)
    candidates = with_null(line_up(subject, runtimes, settings), subject, settings)
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    results = start_results(subject, dataset)  # before the work: its own load is no fact
    with open_sessions(candidates, batch_size=batch_size, timeout_s=timeout_s) as sessions:
        rows = plan.measure(sessions, dataset)
    return replace(results, measurements=tuple(rows))


def with_null(
    candidates: Sequence[Candidate], subject: Subject, settings: Settings
) -> list[Candidate]:
    """The candidates and, last, the null runtime, which shows the harness's own cost."""
    others = [each for each in candidates if each.runtime.name != NULL]
    return [*others, checkpoint_candidate(subject, NULL, settings)]


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """How rounds are run: their number, their wanted length, and the batch size."""

    batch_size: int
    rounds: int
    round_s: float
    progress: Progress = silent

    def __post_init__(self) -> None:
        check_positive("--rounds", self.rounds)
        if self.rounds < _MIN_ROUNDS:
            raise SettingError(
                f"--rounds {self.rounds}: expected {_MIN_ROUNDS} or more; fewer cannot carry a "
                "95 % interval"
            )
        check_positive("--round-time", self.round_s)

    def measure(self, sessions: Sequence[RemoteSession], dataset: Dataset) -> list[Measurement]:
        """Warm every session up, then let them take turns, in an order that changes each round.

        A session that fails drops out with the samples it has; the others go on.
        """
        images = dataset.images[: self.batch_size * DISTINCT_BATCHES]
        tallies = [_Tally(session) for session in sessions]
        for number, tally in enumerate(tallies, start=1):
            tally.warm_up(images, self.round_s)
            self.progress("warm-up", number, len(tallies), tally.session.candidate.label)
        order = list(tallies)
        shuffler = random.Random(0)
        for number in range(1, self.rounds + 1):
            shuffler.shuffle(order)
            for tally in order:
                tally.round()
            self.progress("rounds", number, self.rounds)
        return [tally.measurement(self.batch_size) for tally in tallies]


@dataclass
class _Tally:
    """What has been timed of one session so far."""

    session: RemoteSession
    samples_s: list[float] = field(default_factory=list)
    warmup_calls: int = 0
    round_calls: int = 1
    failure: FailedRun | None = None
    peak_memory_bytes: int | None = None

    def warm_up(self, images: NDArray[np.uint8], round_s: float) -> None:
        """At least three calls and one round's time; the last calls set the round's length."""
        try:
            self.session.prepare(images)
            samples_s = self.session.measure(calls=_MIN_WARMUP_CALLS)
            missing = round_s - sum(samples_s)
            if missing > 0:
                calls = math.ceil(missing / max(samples_s[-1], 1e-6))
                samples_s += self.session.measure(calls=min(calls, 100_000))
        except FailedRun as failure:
            self.failure = failure
            return
        self.warmup_calls = len(samples_s)
        typical_s = quantile(samples_s[len(samples_s) // 2 :], 0.5)
        self.round_calls = max(1, min(math.ceil(round_s / max(typical_s, 1e-9)), 1000))

    def round(self) -> None:
        """One round, and the memory mark after it."""
        if self.failure is not None:
            return
        try:
            self.samples_s += self.session.measure(calls=self.round_calls)
            self.peak_memory_bytes = self.session.peak_memory_bytes()
        except FailedRun as failure:
            self.failure = failure

    def _speeds(self, batch_size: int) -> list[float]:
        """Images/s of each round. Calls of one round share the machine's state of that moment, so
        rounds, not calls, are the samples."""
        calls = self.round_calls
        starts = range(0, len(self.samples_s), calls)
        return [batch_size * calls / sum(self.samples_s[i : i + calls]) for i in starts]

    def measurement(self, batch_size: int) -> Measurement:
        """The row; a failed one keeps its samples and claims nothing."""
        candidate, failure = self.session.candidate, self.failure
        loaded = self.session.loaded
        speed = speed_interval([self._speeds(batch_size)]) if failure is None else None
        return Measurement(
            runtime=candidate.runtime.name,
            format=candidate.source.artifact.format,
            precision=candidate.source.artifact.precision,
            batch_size=batch_size,
            threads=candidate.settings.threads,
            status=failure.status if failure else "measured",
            reason=failure.reason if failure else None,
            images_per_s=speed.value if speed else None,
            images_per_s_low=speed.low if speed else None,
            images_per_s_high=speed.high if speed else None,
            latency_median_s=quantile(self.samples_s, 0.5) if speed else None,
            latency_p90_s=quantile(self.samples_s, 0.9) if speed else None,
            import_s=loaded.import_s if loaded else None,
            load_s=loaded.load_s if loaded else None,
            first_inference_s=loaded.first_inference_s if loaded else None,
            warmup_calls=self.warmup_calls,
            round_calls=self.round_calls,
            peak_memory_bytes=self.peak_memory_bytes,
            artifact_size_bytes=candidate.source.artifact.size_bytes,
            samples_s=tuple(self.samples_s),
            artifact_sha256=candidate.source.artifact.sha256,
            session=loaded.attestation if loaded else None,
            stderr_tail=failure.stderr_tail if failure else "",
        )
