"""`results.json`: the only input of reports."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.artifact import Artifact
from toolkit.schema.literals import Status
from toolkit.schema.machine import Environment, Interference, Limits, MachineWarning
from toolkit.schema.measurement import Measurement, Rank
from toolkit.schema.model import DatasetRecord, TrainingRecord
from toolkit.schema.parity import ParityReport
from toolkit.schema.scenario import ScenarioReport
from toolkit.schema.shown import Shown

RESULTS_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """The checkpoint in results.json. `path` is for people: `.`, `~`, `<tmp>` and `<user>` stand
    for names that belong to the machine. `class_names` are in the order of the logits; empty if
    they are not known."""

    name: str
    path: str
    sha256: str
    accuracy: float | None
    training: TrainingRecord | None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A small PNG, in base64, of the test image with this number."""

    index: int
    png: str


@dataclass(frozen=True, kw_only=True)
class Results(Shown):
    """One run of verify, bench or run. See `results.schema.json`.

    `flops_per_image` is counted from the checkpoint; `limits_failure` says why it or the limits are
    unknown. `interference` has an entry for each pass, batch size and settings of bench. `baseline`
    is the name of the runtime that ratios refer to. `ranking` has the measured candidates, fastest
    first, grouped by batch size and settings. `scenarios` has the rows of bench with an MLPerf
    scenario, instead of measurements. `interrupted` says that the run was stopped before its end:
    the results are valid but incomplete. `quick` says that it used fewer images or shorter
    measurements than usual. `signed_by` is the fingerprint of the key whose signature
    of the artifacts verify checked; None if it checked none. `pictures` has images
    on which candidates disagree, at most 50. `command` is the command that was called, for people;
    None if Python called the toolkit.
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
    quick: bool = False
    signed_by: str | None = None
    pictures: tuple[Picture, ...] = ()
    command: str | None = None

    @property
    def exit_code(self) -> int:
        """0: all passed. 1: a verdict failed, or is undecided and that is not allowed. 3: something
        could not be run, or nothing was run."""
        statuses = [_counted(row) for row in self.parity]
        statuses += [row.status for row in self.measurements]
        statuses += [row.status for row in self.scenarios]
        if "failed" in statuses:
            return 1
        return 0 if statuses and all(status in ("passed", "measured") for status in statuses) else 3


def _counted(row: ParityReport) -> Status:
    """Return the status as the exit code counts it."""
    if row.status == "undecided":
        return "passed" if row.gates.allow_undecided else "failed"
    return row.status
