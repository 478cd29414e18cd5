"""Records of speed: what was timed, and what follows from it.

A candidate is timed in passes, each in a worker process of its own; a pass has rounds; a round has
calls. Raw times are kept, the rest is derived from them in
`toolkit.measurement`.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.literals import Status
from toolkit.schema.machine import GpuState
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Attestation, Settings


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and the bounds that hold it with 95 % confidence, in the unit of the value.

    `passes` is how many passes are behind it; of two runs, the fewer. With 1, the bounds come from
    the rounds of that pass, and the spread between processes is not in them.
    """

    value: float
    low: float
    high: float
    passes: int


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """A percentile, where the samples can carry it, in their unit.

    `share` is 0.99 for the 99th; `value` is None where `samples` are fewer than `samples_needed`.
    """

    share: float
    value: float | None
    samples: int
    samples_needed: int


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """How many samples lie outside of Tukey's fences; mild ones and severe ones apart."""

    samples: int
    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int

    @property
    def low(self) -> int:
        return self.low_severe + self.low_mild

    @property
    def high(self) -> int:
        return self.high_mild + self.high_severe


@dataclass(frozen=True, kw_only=True)
class Round:
    """Calls made back to back. `samples_s` holds the wall time of each call, in order, one list a
    stream; the streams ran at the same time. `page_faults` is how many pages of memory the process
    had to be given meanwhile. `gpu` is the state of the GPU before, during and after the round, in
    that order; nothing on another device, or without the package nvidia-ml-py."""

    samples_s: tuple[tuple[float, ...], ...]
    page_faults: int = 0
    gpu: tuple[GpuState, ...] = ()

    @property
    def calls(self) -> int:
        """Of all streams."""
        return sum(map(len, self.samples_s))

    def images_per_s(self, batch_size: int) -> float:
        """Throughput: the streams' speeds together, each while the others were at work."""
        return sum(batch_size * len(calls) / sum(calls) for calls in self.samples_s)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What went before the first round; `steady` says that it ended because times were steady,
    not because it had lasted long enough; None where calls are too long to tell."""

    calls: int
    wall_s: float
    steady: bool | None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one worker process gave, in seconds and bytes.

    `repeated` is a round on one and the same input batch: faster than the others where answers
    come from a cache. `peak_memory_bytes` is the worker's own high-water mark, the runtime and the
    inputs included. None and nothing where the worker had failed by then.
    """

    import_s: float
    load_s: float
    first_inference_s: float
    warm_up: WarmUp | None = None
    calls_per_round: int | None = None
    rounds: tuple[Round, ...] = ()
    repeated: Round | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How fast one candidate is at one batch size; `name` tells it apart within its results.

    `to_baseline` is its speed over that of the baseline, from rounds side by side; it is exactly 1
    for the baseline itself. `repeat_ratio` is its speed on a repeated input over that on rotating
    ones. `latency_s` and `outliers` are about single calls, over all passes. `page_faults` is how
    many pages of memory a call had to be given, in the median round. `limit_share` is the
    fraction of the measured limit: on the CPU of its float32 products, on CUDA of products in the
    arithmetic that the session attests; None where that limit is not known. Times to load are
    those of the first pass, in which workers were loaded one by one; `peak_memory_bytes` is the
    highest of all.
    """

    name: str
    runtime: str
    format: str
    precision: Precision
    batch_size: int
    settings: Settings
    status: Status
    reason: str | None
    images_per_s: Interval | None
    to_baseline: Interval | None
    repeat_ratio: Interval | None
    limit_share: float | None
    latency_s: tuple[Percentile, ...]
    outliers: Outliers | None
    page_faults: float | None = None
    import_s: float | None
    load_s: float | None
    first_inference_s: float | None
    peak_memory_bytes: int | None
    artifact_size_bytes: int
    artifact_sha256: str
    session: Attestation | None
    passes: tuple[Pass, ...]
    stderr_tail: str

    def latency_at(self, share: float) -> float | None:
        """The percentile of `latency_s` at this share, in seconds; None where there is none."""
        return next((each.value for each in self.latency_s if each.share == share), None)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One candidate's place among the others of its run.

    `name` is a measurement's. `to_faster` is its speed over that of the one before it, from paired
    rounds; None for the first. `too_close` says that the one before may be as fast: `to_faster`
    holds 1, or `reason` says why no difference may be asserted. `longer` says how many times as
    many passes would tell the two apart; None where more than 100 times as many would be needed, or
    where it cannot be said.
    """

    name: str
    speed: Interval
    to_faster: Interval | None
    too_close: bool
    longer: float | None
    reason: str | None = None
