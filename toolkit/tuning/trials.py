"""Trials of a tuning: records and descriptions of the candidates in each stage.

In: entries of the search. Out: `Trial` records, and the reason for the recommendation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.measurement.passes import Tally
from toolkit.schema import Configuration, Interval, ParityReport, Status, Trial
from toolkit.sessions.candidates import Candidate
from toolkit.statistics.intervals import Passes
from toolkit.statistics.speeds import latencies, speed_ratio, speeds_of


@dataclass(kw_only=True, eq=False)
class Entry:
    """A candidate in the search; `tally` is that of its last stage. `logits` are the verified
    logits of the images that its calls rotate through."""

    candidate: Candidate
    tally: Tally
    stage: int = 0
    report: ParityReport | None = None
    logits: NDArray[np.floating] | None = None
    to_baseline: Interval | None = None
    pareto: bool = False

    def ratio_to(self, other: Entry) -> Interval | None:
        """Return its speed divided by the other's, from paired rounds; None if it is unknown."""
        if self.tally.throughput() is None or other.tally.throughput() is None:
            return None
        return speed_ratio(self.tally.passes, other.tally.passes)

    @property
    def speeds(self) -> Passes:
        """Return images/s of each round of each pass."""
        return speeds_of(self.tally.passes, self.tally.batch_size)

    @property
    def images_per_s(self) -> float:
        """Return images/s; 0 if it has none."""
        speed = self.tally.throughput()
        return speed.value if speed else 0.0


def trial_of(name: str, entry: Entry) -> Trial:
    """Return the record of an entry."""
    candidate, report, failure = entry.candidate, entry.report, entry.tally.failure
    artifact = candidate.source.artifact
    status: Status | None = report.status if report is not None else None
    reason = report.reason if report is not None else None
    if report is None and failure is None and entry.tally.throughput() is None:
        status, reason = "too_short", "it had no rounds"
    if failure is not None:
        status, reason = failure.status, failure.reason
    return Trial(
        name=name,
        configuration=Configuration(
            runtime=candidate.runtime.name,
            format=artifact.format,
            precision=artifact.precision,
            embeds_preprocessing=artifact.embeds_preprocessing,
            artifact_path=str(candidate.source.path),
            artifact_sha256=artifact.sha256,
            batch_size=entry.tally.batch_size,
            settings=candidate.settings,
        ),
        stage=entry.stage,
        images_per_s=entry.tally.throughput(),
        to_baseline=entry.to_baseline,
        latency_s=median_call_s(entry.tally),
        size_bytes=artifact.size_bytes,
        accuracy=report.accuracy if report is not None else None,
        flips=report.flips if report is not None else None,
        status=status,
        reason=reason,
        pareto=entry.pareto,
    )


def median_call_s(tally: Tally) -> float | None:
    """Return the time of the median call; None if there is none."""
    if tally.failure is not None:
        return None
    return next((each.value for each in latencies(tally.passes) if each.share == 0.5), None)


def describe_choice(best: Trial, close: Sequence[Trial]) -> str:
    """Return the reason for the recommendation as text; `close` may be equally fast."""
    accuracy = "" if best.accuracy is None else f"{best.accuracy:.2%} accuracy, {best.flips} flips"
    faster = ""
    if best.to_baseline is not None:
        ratio = best.to_baseline
        faster = f", {ratio.value:.2f} times eager torch [{ratio.low:.2f}-{ratio.high:.2f}]"
    choice = "the fastest configuration that passes verification"
    if close:
        choice = (
            "among the fastest, which are too close to call, the one with the fewest flips, or "
            "the smallest"
        )
    return f"{choice}: {accuracy}{faster}"


def describe_confidence(close: Sequence[str], finalists: int) -> str:
    """Return the confidence in the recommendation as text; `close` are the names of those that may
    be equally fast."""
    if close:
        return f"too close to call from {', '.join(close)}: any of them is a good choice"
    if finalists == 1:
        return "the only one that passed"
    return "faster than each of the other finalists (95 % confidence for all of them together)"
