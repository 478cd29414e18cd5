"""Records of speed: raw times, and the values derived from them.

A candidate is timed in passes, each in its own worker process. A pass has rounds, and a round has
calls. Raw times are kept; everything else is derived from them in `toolkit.measurement`.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.literals import Status
from toolkit.schema.machine import GpuState
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Attestation, Settings


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % confidence bounds, in the unit of the value.

    `passes` is the number of passes; for two runs, the smaller number. With 1, the bounds come from
    the rounds of that pass and do not include the spread between processes.
    """

    value: float
    low: float
    high: float
    passes: int


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """A percentile in the unit of the samples, if there are enough samples.

    `share` is 0.99 for the 99th; `value` is None if `samples` is below `samples_needed`.
    """

    share: float
    value: float | None
    samples: int
    samples_needed: int


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """The number of samples outside Tukey's fences; mild and severe ones are counted separately."""

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
    """Calls without a pause. `samples_s` holds the wall time of each call, in order, one list per
    stream; the streams ran at the same time. `page_faults` is the number of pages of memory that
    the system gave the process in this time. `gpu` is the state of the GPU before, during and after
    the round, in this order; empty on another device, or without the package nvidia-ml-py."""

    samples_s: tuple[tuple[float, ...], ...]
    page_faults: int = 0
    gpu: tuple[GpuState, ...] = ()

    @property
    def calls(self) -> int:
        """The number of calls of all streams."""
        return sum(map(len, self.samples_s))

    def images_per_s(self, batch_size: int) -> float:
        """Throughput: the sum of the streams' speeds, each measured while the others worked."""
        return sum(batch_size * len(calls) / sum(calls) for calls in self.samples_s)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The warm-up before the first round. `steady` says that it ended because times were steady,
    not because of the time limit; None if calls are too long to tell."""

    calls: int
    wall_s: float
    steady: bool | None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The readings of one worker process, in seconds and bytes.

    `repeated` is a round on the same input batch: it is faster than the others if answers come from
    a cache. `peak_memory_bytes` is the peak memory of the worker, including the runtime and the
    inputs. Values are unset if the worker had already failed.
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
    """The speed of one candidate at one batch size; `name` is unique within its results.

    With `embeds_preprocessing`, the input of each call is uint8, and the artifact normalises it.
    `to_baseline` is its speed divided by that of the baseline, from paired rounds; exactly 1 for
    the baseline itself. `repeat_ratio` is its speed on a repeated input divided by that on rotating
    inputs. `latency_s` and `outliers` are about single calls, over all passes. `page_faults` is the
    number of pages of memory per call, in the median round. `limit_share` is the fraction of the
    measured limit: on the CPU the limit of float32 products, on CUDA the limit of products in the
    arithmetic that the session attests; None if the limit is unknown. Load times come from the
    first pass, in which workers were loaded one by one; `peak_memory_bytes` is the highest of all
    passes.
    """

    name: str
    runtime: str
    format: str
    precision: Precision
    embeds_preprocessing: bool = False
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
        """Return the percentile of `latency_s` at this share, in seconds; None if there is none."""
        return next((each.value for each in self.latency_s if each.share == share), None)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The place of one candidate among the others of its run.

    `name` is that of a measurement. `to_faster` is its speed divided by that of the one before it,
    from paired rounds; None for the first. `too_close` says that the one before may be equally
    fast: `to_faster` contains 1, or `reason` says why no difference may be claimed. `longer` says
    how many times as many passes are needed to decide; None if it is more than 100 times, or
    unknown.
    """

    name: str
    speed: Interval
    to_faster: Interval | None
    too_close: bool
    longer: float | None
    reason: str | None = None
