"""`results.json`: started with what is known, written whole after each row, read by the reports."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.candidates import Subject
from toolkit.data import Dataset
from toolkit.environment import describe_environment
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.schema import (
    RESULTS_SCHEMA_VERSION,
    CheckpointRecord,
    Results,
    from_json,
    to_json,
)

RESULTS = "results.json"
SCHEMA = Path(__file__).parent / "results.schema.json"


def start_results(subject: Subject, dataset: Dataset) -> Results:
    """Results without rows: this machine, the data set, the checkpoint and its artifacts."""
    checkpoint = subject.checkpoint
    return Results(
        schema_version=RESULTS_SCHEMA_VERSION,
        environment=describe_environment(),
        dataset=dataset.record,
        checkpoint=CheckpointRecord(
            name=checkpoint.name,
            path=str(subject.folder),
            sha256=checkpoint.sha256,
            accuracy=checkpoint.training.accuracy if checkpoint.training else None,
            training=checkpoint.training,
        ),
        artifacts=tuple(stored.record for stored in subject.artifacts),
    )


def write_results(path: Path, results: Results) -> None:
    """Write `results.json`, atomically."""
    write_json(path, to_json(results))


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        ToolkitError: missing, not results, or of another schema version.
    """
    try:
        return from_json(Results, json.loads(path.read_bytes()), version=RESULTS_SCHEMA_VERSION)
    except OSError as error:
        raise ToolkitError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ToolkitError(f"{path}: not a results file of this version: {error}") from error
