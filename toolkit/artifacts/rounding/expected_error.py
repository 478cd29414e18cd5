"""The expected error of a quantised artifact's own rounding: recorded, or measured again.

In: an artifact and inputs. Out: an `ExpectedError`, or None if it is unknown.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.artifacts.rounding.number_formats import MEASURED_IMAGES
from toolkit.errors import headline
from toolkit.files.scratch import temporary_folder
from toolkit.processes.child import answer, run_apart
from toolkit.processes.confinement import Needs
from toolkit.schema import TRAITS, Artifact, ExpectedError, Inputs, from_json, to_json

FORMATS = ("onnx", "openvino")
"""Formats whose int8 files contain the size of their own rounding."""


def find_expected_error(
    path: Path,
    artifact: Artifact,
    inputs: Inputs,
    *,
    threads: int = 1,
    timeout_s: float = 300.0,
) -> ExpectedError | None:
    """Return the expected error that the export recorded for these bytes; otherwise measure it from
    the file, if the format allows this.

    Args:
        path: The artifact's file or folder.
        artifact: Its record, whose checksum is that of the file.
        inputs: As the artifact takes them, `[N,C,H,W]`; 200 are enough, more are ignored.
        threads: Threads of the evaluation, which runs in a separate process.
        timeout_s: A process that takes longer is stopped.

    Returns:
        None if the record is of other bytes, and the file is neither an int8 ONNX file with pairs
        of QuantizeLinear and DequantizeLinear nor an int8 IR of OpenVINO.

    Raises:
        FailedRun: The file could not be evaluated; the message says why.
    """
    recorded = artifact.expected_error
    if recorded is not None and recorded.sha256 == artifact.sha256:
        return recorded
    traits = TRAITS[artifact.precision]
    if artifact.format not in FORMATS or not traits.quantised or traits.depends_on_the_batch:
        return None
    with temporary_folder("rounding") as scratch:
        np.save(scratch / "inputs.npy", inputs[:MEASURED_IMAGES])
        job = {
            "format": artifact.format,
            "path": str(path.resolve()),
            "inputs": str(scratch.resolve() / "inputs.npy"),
            "threads": threads,
        }
        found = run_apart(
            "toolkit.artifacts.rounding.expected_error",
            job,
            scratch,
            what=f"the expected error of {path.name}: its evaluation",
            timeout_s=timeout_s,
            needs=Needs(reads=(path,)),
        )
    if found["expected"] is None:
        return None
    return replace(from_json(ExpectedError, found["expected"]), sha256=artifact.sha256)


def main() -> None:
    """Run in the child."""
    answer(_measure, reason=_cannot_measure)


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    from toolkit.artifacts.rounding import onnx_file, openvino_file

    path, inputs, threads = Path(job["path"]), np.load(job["inputs"]), job["threads"]
    if job["format"] == "onnx":
        found = onnx_file.measure(path, inputs, threads=threads)
    else:
        found = openvino_file.measure(path / "model.xml", inputs, threads=threads)
    return {"expected": None if found is None else to_json(found)}


def _cannot_measure(job: dict[str, Any], error: BaseException) -> str:
    return f"cannot measure the expected error of {Path(job['path']).name}: {headline(error)}"


if __name__ == "__main__":
    main()
