"""How far a quantised artifact's own rounding should move its logits: recorded, or found anew.

In: an artifact and inputs. Out: an `ExpectedError`, or None where nothing tells it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.apart import answer, run_apart, scratch_of
from toolkit.errors import headline
from toolkit.onnx_rounding import IMAGES, measure
from toolkit.schema import Artifact, ExpectedError, from_json, to_json


def find_expected_error(
    path: Path,
    artifact: Artifact,
    inputs: NDArray[np.float32],
    *,
    threads: int = 1,
    timeout_s: float = 300.0,
) -> ExpectedError | None:
    """What export recorded of these bytes; of other ONNX files, what the file itself tells.

    Args:
        path: The artifact's file.
        artifact: Its record, whose checksum is that of the file.
        inputs: Float32 `[N,C,H,W]`, normalised; 200 are enough, others are left out.
        threads: Of the evaluation, which has a process of its own.
        timeout_s: A process that takes longer is ended.

    Returns:
        None where the record is of other bytes, and the file is no ONNX file with pairs of
        QuantizeLinear and DequantizeLinear.

    Raises:
        FailedRun: the file could not be evaluated; says why.
    """
    recorded = artifact.expected_error
    if recorded is not None and recorded.sha256 == artifact.sha256:
        return recorded
    if artifact.format != "onnx" or artifact.precision not in ("int8", "int8-weights"):
        return None
    with scratch_of("rounding") as scratch:
        np.save(scratch / "inputs.npy", inputs[:IMAGES])
        job = {
            "path": str(path.resolve()),
            "inputs": str(scratch.resolve() / "inputs.npy"),
            "threads": threads,
        }
        found = run_apart(
            "toolkit.quantisation",
            job,
            scratch,
            what=f"the expected error of {path.name}: its evaluation",
            timeout_s=timeout_s,
        )
    if found["expected"] is None:
        return None
    return replace(from_json(ExpectedError, found["expected"]), sha256=artifact.sha256)


def main() -> None:
    """The child's side."""
    answer(_measure, reason=_cannot_measure)


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    found = measure(Path(job["path"]), np.load(job["inputs"]), threads=job["threads"])
    return {"expected": None if found is None else to_json(found)}


def _cannot_measure(job: dict[str, Any], error: BaseException) -> str:
    return f"cannot tell the expected error of {Path(job['path']).name}: {headline(error)}"


if __name__ == "__main__":
    main()
