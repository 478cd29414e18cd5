"""Records of tuning: the configurations that were tried, how far each came, and the one to take."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.literals import Status
from toolkit.schema.machine import Environment, MachineWarning
from toolkit.schema.measurement import Interval
from toolkit.schema.model import DatasetRecord
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Settings

TUNING_SCHEMA_VERSION = 2
FINAL_STAGE = 3
REMEASURED_STAGE = 4


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a recommendation must keep; None is no constraint.

    `max_flips` and `max_accuracy_drop` go before the gates that the precisions have by default;
    `max_latency_s` is about the median call of a batch, `max_size_bytes` about the artifact.
    """

    max_flips: int | None = None
    max_accuracy_drop: float | None = None
    max_latency_s: float | None = None
    max_size_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One artifact in one runtime with settings: what a deployment needs to know, and `bench` takes
    as it is."""

    runtime: str
    format: str
    precision: Precision
    artifact_path: str
    artifact_sha256: str
    batch_size: int
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration and what is known of it.

    `stage` is the last stage that it took part in, from 1; speeds are those measured there. Stage 3
    has all finalists side by side. Stage 4 measures those afresh of which one is recommended, so
    that its speed is not the one that it was chosen for. `to_baseline` is known of stages 3 and 4
    only.
    `accuracy` and `flips` are known where it was compared with its checkpoint; `status` and
    `reason` say how that, or running it, ended; None where it was not compared, being too slow.
    `pareto` says that no other finalist that may be taken was at least as good in throughput,
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
class Tuning:
    """`tuning.json`: one call of tune. `baseline` and `recommended` are names of trials."""

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

    @property
    def exit_code(self) -> int:
        """0 something can be recommended, 1 nothing keeps the constraints."""
        return 0 if self.recommended is not None else 1

    @property
    def chosen(self) -> Configuration | None:
        """The configuration that was recommended."""
        return None if self.recommended is None else self.trial(self.recommended).configuration

    def trial(self, name: str) -> Trial:
        """The trial of that name."""
        return next(each for each in self.trials if each.name == name)
