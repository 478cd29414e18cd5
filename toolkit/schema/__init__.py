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
from toolkit.schema.json import from_json, to_json
from toolkit.schema.machine import Diagnosis, Environment, Gpu, Interference, Limits, MachineWarning
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
    InputSpec,
    ModelSpec,
    TrainingRecord,
)
from toolkit.schema.parity import Bound, Cause, Check, Flip, Gates, ParityReport, WorstImage
from toolkit.schema.results import RESULTS_SCHEMA_VERSION, CheckpointRecord, Results
from toolkit.schema.scenario import ScenarioName, ScenarioReport, ScenarioSettings
from toolkit.schema.session import FLOAT32, UNKNOWN, Attestation, Evidence, Settings
from toolkit.schema.tuning import (
    FRESH_HEAT,
    LAST_HEAT,
    TUNING_SCHEMA_VERSION,
    Configuration,
    Constraints,
    Trial,
    Tuning,
)
from toolkit.schema.words import (
    EXACT_PRECISIONS,
    EXPORTED_PRECISIONS,
    Device,
    Isa,
    Precision,
    Status,
)

__all__ = [
    "CHECKPOINT_SCHEMA_VERSION",
    "EXACT_PRECISIONS",
    "EXPORTED_PRECISIONS",
    "FLOAT32",
    "FRESH_HEAT",
    "LAST_HEAT",
    "MANIFEST_SCHEMA_VERSION",
    "RESULTS_SCHEMA_VERSION",
    "TUNING_SCHEMA_VERSION",
    "UNKNOWN",
    "Artifact",
    "Attestation",
    "Bound",
    "Calibration",
    "Cause",
    "Check",
    "Checkpoint",
    "CheckpointId",
    "CheckpointRecord",
    "ComparedRow",
    "Comparison",
    "Configuration",
    "Constraints",
    "DatasetRecord",
    "Device",
    "Diagnosis",
    "Environment",
    "Epoch",
    "Evidence",
    "ExpectedError",
    "Flip",
    "Gates",
    "Gpu",
    "InputSpec",
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
    "Precision",
    "Rank",
    "Results",
    "Round",
    "ScenarioName",
    "ScenarioReport",
    "ScenarioSettings",
    "Settings",
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
