"""Records of MLPerf scenarios: how queries arrive, and LoadGen's result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.schema.literals import Status
from toolkit.schema.measurement import Percentile
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Attestation, Settings

ScenarioName = Literal["offline", "single-stream", "server"]


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings:
    """The settings of LoadGen, in seconds and queries per second.

    `target_qps`, and `latency_bound_s` for 99 % of the queries, belong to `server`.
    """

    scenario: ScenarioName
    min_duration_s: float
    max_duration_s: float
    target_qps: float | None = None
    latency_bound_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScenarioReport:
    """One candidate in an MLPerf scenario, timed by LoadGen and judged by its rules.

    A run that LoadGen calls INVALID has the status `measured` too: `valid` is then False, and
    `violations` has the reasons in LoadGen's own words. `samples` were answered in `queries`.
    `duration_s` runs from the first query to the last (offline: to the last answer). `latency_s` is
    that of queries, in server from the time that they were due. Offline has none, because all its
    samples wait in one query. `mlperf_latency_s` is MLPerf's metric for single-stream: the
    early-stopping estimate of the 90th percentile. `submission_length` says that MLPerf's minimum
    for submissions was kept: 600 s, and for offline also 24,576 samples.
    """

    name: str
    runtime: str
    format: str
    precision: Precision
    embeds_preprocessing: bool = False
    scenario: ScenarioName
    batch_size: int
    settings: Settings
    status: Status
    reason: str | None
    valid: bool | None
    violations: tuple[str, ...]
    queries: int | None
    samples: int | None
    checked: int | None
    duration_s: float | None
    min_duration_s: float
    submission_length: bool
    samples_per_s: float | None
    latency_s: tuple[Percentile, ...]
    mlperf_latency_s: float | None
    target_qps: float | None
    latency_bound_s: float | None
    loadgen: str | None
    artifact_sha256: str
    session: Attestation | None
    stderr_tail: str
