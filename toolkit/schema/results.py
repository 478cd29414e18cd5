"""`results.json`: the only thing that reports read."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.artifact import Artifact
from toolkit.schema.literals import Status
from toolkit.schema.machine import Environment, Interference, Limits, MachineWarning
from toolkit.schema.measurement import Measurement, Rank
from toolkit.schema.model import DatasetRecord, TrainingRecord
from toolkit.schema.parity import ParityReport
from toolkit.schema.scenario import ScenarioReport

RESULTS_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """The checkpoint as results.json names it."""

    name: str
    path: str
    sha256: str
    accuracy: float | None
    training: TrainingRecord | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """One call of verify, bench or run. See `results.schema.json`.

    `flops_per_image` are counted from the checkpoint; `limits_failure` says why they or the limits
    are not known. `interference` has an entry for each pass, batch size and settings of bench.
    `baseline` is the name of the runtime that ratios refer to; `ranking` has the measured
    candidates, fastest first, those of each batch size and settings together. `scenarios` has the
    rows of bench with a scenario of MLPerf's, in place of measurements. `interrupted` says
    that the call was stopped before its end: what is there holds, but it is not all.
    """

    schema_version: int
    environment: Environment
    dataset: DatasetRecord
    checkpoint: CheckpointRecord
    artifacts: tuple[Artifact, ...] = ()
    parity: tuple[ParityReport, ...] = ()
    limits: Limits | None = None
    flops_per_image: int | None = None
    limits_failure: str | None = None
    interference: tuple[Interference, ...] = ()
    warnings: tuple[MachineWarning, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    scenarios: tuple[ScenarioReport, ...] = ()
    baseline: str | None = None
    ranking: tuple[Rank, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 all passed; 1 a verdict failed, or is undecided where that is not allowed; 3 something
        could not be run, or nothing was."""
        statuses = [_counted(row) for row in self.parity]
        statuses += [row.status for row in self.measurements]
        statuses += [row.status for row in self.scenarios]
        if "failed" in statuses:
            return 1
        return 0 if statuses and all(status in ("passed", "measured") for status in statuses) else 3


def _counted(row: ParityReport) -> Status:
    """The status as the exit code counts it."""
    if row.status == "undecided":
        return "passed" if row.gates.allow_undecided else "failed"
    return row.status
