"""Records of tuning: the configurations, how far each came, and the recommendation."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.literals import Status
from toolkit.schema.machine import Environment, MachineWarning
from toolkit.schema.measurement import Interval
from toolkit.schema.model import DatasetRecord
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Settings
from toolkit.schema.shown import Shown

TUNING_SCHEMA_VERSION = 2
FINAL_STAGE = 3
REMEASURED_STAGE = 4


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The limits that a recommendation must keep; None is no limit.

    `max_flips` and `max_accuracy_drop` replace the default gates of the precisions; `max_latency_s`
    is about the median call of a batch, `max_size_bytes` about the artifact.
    """

    max_flips: int | None = None
    max_accuracy_drop: float | None = None
    max_latency_s: float | None = None
    max_size_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One artifact in one runtime with settings: everything that a deployment needs; `bench` takes
    it unchanged. In a file, `artifact_path` is relative to that file."""

    runtime: str
    format: str
    precision: Precision
    embeds_preprocessing: bool = False
    artifact_path: str
    artifact_sha256: str
    batch_size: int
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration and its results.

    `stage` is the last stage that it took part in, from 1; its speeds were measured there. Stage 3
    compares all finalists in interleaved rounds. Stage 4 measures the possible winners again, so
    that the published speed is not the one that selected the winner. `to_baseline` is known for
    these two stages only. `accuracy` and `flips` are known if it was compared with its checkpoint.
    `status` and `reason` say how the comparison or the run ended; None if it was too slow to be
    compared. `pareto` says that no other acceptable finalist was at least as good in throughput,
    latency, size and accuracy in stage 3, and better in one.
    """

    name: str
    configuration: Configuration
    stage: int
    images_per_s: Interval | None
    to_baseline: Interval | None
    latency_s: float | None
    size_bytes: int
    accuracy: float | None
    flips: int | None
    status: Status | None
    reason: str | None
    pareto: bool


@dataclass(frozen=True, kw_only=True)
class Tuning(Shown):
    """`tuning.json`: one run of tune. `baseline` and `recommended` are names of trials.

    `quick` says that it compared fewer images and measured for a shorter time than usual.
    `interrupted` says that it was stopped before its end: it has no recommendation, and `baseline`
    is empty if it was not measured yet.
    """

    schema_version: int
    environment: Environment
    dataset: DatasetRecord
    checkpoint_sha256: str
    constraints: Constraints
    wall_s: float
    trials: tuple[Trial, ...]
    baseline: str
    recommended: str | None
    why: str
    confidence: str
    warnings: tuple[MachineWarning, ...] = ()
    quick: bool = False
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0: there is a recommendation. 1: nothing keeps the constraints."""
        return 0 if self.recommended is not None else 1

    @property
    def chosen(self) -> Configuration | None:
        """The recommended configuration."""
        return None if self.recommended is None else self.trial(self.recommended).configuration

    def trial(self, name: str) -> Trial:
        """Return the trial with that name."""
        return next(each for each in self.trials if each.name == name)
