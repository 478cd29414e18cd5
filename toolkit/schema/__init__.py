"""Frozen records that are passed between the steps, and their conversion to and from JSON.

In: nothing. Out: dataclasses. Nothing here imports numpy, torch or a runtime. Units are SI and part
of the names. Raw samples are kept; everything else is derived.
"""

from __future__ import annotations

from toolkit.schema.artifact import (
    MANIFEST_SCHEMA_VERSION,
    Artifact,
    Calibration,
    ExpectedError,
    Manifest,
)
from toolkit.schema.comparison import ComparedRow, Comparison, Verdict
from toolkit.schema.contract import CARD_SCHEMA_VERSION, Card, Contract
from toolkit.schema.gate import Gate, GateOutcome, GateRow
from toolkit.schema.json import from_json, to_json
from toolkit.schema.literals import Device, Isa, Status
from toolkit.schema.machine import (
    Diagnosis,
    Environment,
    Gpu,
    GpuLimits,
    GpuState,
    Interference,
    Limits,
    MachineWarning,
)
from toolkit.schema.measurement import (
    Interval,
    Measurement,
    Outliers,
    Pass,
    Percentile,
    Rank,
    Round,
    WarmUp,
)
from toolkit.schema.model import (
    CHECKPOINT_SCHEMA_VERSION,
    Checkpoint,
    CheckpointId,
    DatasetRecord,
    Epoch,
    Inputs,
    InputSpec,
    ModelSpec,
    TrainingRecord,
)
from toolkit.schema.parity import Bound, Cause, Check, Flip, Gates, ParityReport, Score, WorstImage
from toolkit.schema.precisions import EXACT_PRECISIONS, EXPORTED_PRECISIONS, TRAITS, Precision
from toolkit.schema.program import Program
from toolkit.schema.results import RESULTS_SCHEMA_VERSION, CheckpointRecord, Picture, Results
from toolkit.schema.scenario import ScenarioName, ScenarioReport, ScenarioSettings
from toolkit.schema.session import EAGER, FLOAT32, NO_OP, UNKNOWN, Attestation, Evidence, Settings
from toolkit.schema.shown import Shown
from toolkit.schema.tuning import (
    FINAL_STAGE,
    REMEASURED_STAGE,
    TUNING_SCHEMA_VERSION,
    Configuration,
    Constraints,
    Trial,
    Tuning,
)

__all__ = [
    "CARD_SCHEMA_VERSION",
    "CHECKPOINT_SCHEMA_VERSION",
    "EAGER",
    "EXACT_PRECISIONS",
    "EXPORTED_PRECISIONS",
    "FINAL_STAGE",
    "FLOAT32",
    "MANIFEST_SCHEMA_VERSION",
    "NO_OP",
    "REMEASURED_STAGE",
    "RESULTS_SCHEMA_VERSION",
    "TRAITS",
    "TUNING_SCHEMA_VERSION",
    "UNKNOWN",
    "Artifact",
    "Attestation",
    "Bound",
    "Calibration",
    "Card",
    "Cause",
    "Check",
    "Checkpoint",
    "CheckpointId",
    "CheckpointRecord",
    "ComparedRow",
    "Comparison",
    "Configuration",
    "Constraints",
    "Contract",
    "DatasetRecord",
    "Device",
    "Diagnosis",
    "Environment",
    "Epoch",
    "Evidence",
    "ExpectedError",
    "Flip",
    "Gate",
    "GateOutcome",
    "GateRow",
    "Gates",
    "Gpu",
    "GpuLimits",
    "GpuState",
    "InputSpec",
    "Inputs",
    "Interference",
    "Interval",
    "Isa",
    "Limits",
    "MachineWarning",
    "Manifest",
    "Measurement",
    "ModelSpec",
    "Outliers",
    "ParityReport",
    "Pass",
    "Percentile",
    "Picture",
    "Precision",
    "Program",
    "Rank",
    "Results",
    "Round",
    "ScenarioName",
    "ScenarioReport",
    "ScenarioSettings",
    "Score",
    "Settings",
    "Shown",
    "Status",
    "TrainingRecord",
    "Trial",
    "Tuning",
    "Verdict",
    "WarmUp",
    "WorstImage",
    "from_json",
    "to_json",
]
