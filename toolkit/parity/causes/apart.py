"""Search for a cause in a separate process, so that a crash or hang ends only the search.

In: names, paths and arrays. Out: a `Cause`, or None. The parent calls `search_apart`; the child
runs this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import FailedRun, headline
from toolkit.files import files_in, read_regular
from toolkit.files.scratch import temporary_folder
from toolkit.parity.causes.stored import find_tensors
from toolkit.parity.causes.symptoms import Symptoms
from toolkit.parity.causes.tensors import compare_tensors
from toolkit.processes.child import answer, run_apart
from toolkit.processes.confinement import Needs
from toolkit.schema import (
    EXACT_PRECISIONS,
    Cause,
    CheckpointId,
    InputSpec,
    Precision,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from torch import nn

_CHECKPOINT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The input of the child. `artifact` is the file or folder, of `format`; with
    `embeds_preprocessing`, it takes raw images. Experiments take at most `budget_s`; with 0 they
    are left out."""

    checkpoint: str
    checkpoint_id: CheckpointId
    model: str | None
    input: InputSpec
    artifact: str
    format: str
    precision: Precision
    embeds_preprocessing: bool
    batch_size: int
    tolerance_floors: float
    expected_rms: float | None
    threads: int
    budget_s: float
    arrays: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the child. `untouched` says that the file is what the exporter writes."""

    cause: Cause | None
    untouched: bool = False


def search_apart(
    job: Job, symptoms: Symptoms, images: NDArray[np.uint8], *, timeout_s: float
) -> Outcome:
    """Return what a child process finds within `timeout_s`; this function sets `job.arrays`.

    `symptoms` are those of the raw `images` `[n,C,H,W]`.
    """
    with temporary_folder("causes") as scratch:
        np.savez(
            scratch / "arrays.npz",
            images=images,
            reference=symptoms.reference,
            candidate=symptoms.candidate,
            floors=symptoms.floors,
            labels=symptoms.labels,
        )
        try:
            found = run_apart(
                "toolkit.parity.causes.apart",
                {**to_json(job), "arrays": str(scratch.resolve() / "arrays.npz")},
                scratch,
                what="the search for a cause",
                timeout_s=timeout_s,
                needs=Needs(reads=(Path(job.checkpoint), Path(job.artifact)), model=job.model),
            )
        except FailedRun:  # a row without a cause says enough about itself
            return Outcome(cause=None)
        return from_json(Outcome, found)


class _Search:
    """The search inside the child process."""

    def __init__(self, job: Job) -> None:
        arrays = np.load(job.arrays)
        self._job = job
        self._images = arrays["images"]
        self._symptoms = Symptoms(
            reference=arrays["reference"],
            candidate=arrays["candidate"],
            floors=arrays["floors"],
            labels=arrays["labels"],
            batch_size=job.batch_size,
            precision=job.precision,
            tolerance_floors=job.tolerance_floors,
            expected_rms=job.expected_rms,
        )

    def run(self) -> Outcome:
        """Check the weights first, because that is fast; then the most specific cause for the
        precision."""
        cause = self._weights()
        if cause is not None:
            return Outcome(cause=cause)
        model = self._model()
        onnx = self._job.format == "onnx"
        if onnx and self._job.precision not in EXACT_PRECISIONS:
            cause = self._file(model)
        cause = cause or self._experiments(model)
        if cause is not None or not onnx or self._job.precision not in EXACT_PRECISIONS:
            return Outcome(cause=cause)
        cause = self._file(model)
        return Outcome(cause=cause, untouched=cause is None)

    def _weights(self) -> Cause | None:
        if self._job.format == _CHECKPOINT:
            return None
        from safetensors.numpy import load

        from toolkit.checkpoints.storage import WEIGHTS

        folder = Path(self._job.checkpoint)
        tensors = load(read_regular(folder / WEIGHTS, within=folder))
        floats = {name: each for name, each in tensors.items() if each.dtype == np.float32}
        path = Path(self._job.artifact)
        cause = compare_tensors(floats, find_tensors(floats, _files(path)))
        if cause is None and self._job.format == "onnx" and self._job.precision in EXACT_PRECISIONS:
            from toolkit.parity.causes.onnx_file import rounding_in_file

            return rounding_in_file(path, floats)
        return cause

    def _model(self) -> nn.Module:
        import torch

        from toolkit.checkpoints.storage import load_same_model

        torch.set_num_threads(self._job.threads)
        folder = Path(self._job.checkpoint)
        return load_same_model(folder, self._job.checkpoint_id, trusted=self._job.model)

    def _experiments(self, model: nn.Module) -> Cause | None:
        if not self._job.budget_s:
            return None
        from toolkit.parity.causes.experiments import Experiments

        return Experiments(
            model,
            self._images,
            self._job.input,
            self._symptoms,
            embedded=self._job.embeds_preprocessing,
            budget_s=self._job.budget_s,
        ).cause()

    def _file(self, model: nn.Module) -> Cause | None:
        from toolkit.parity.causes.onnx_file import cause_in_file

        return cause_in_file(
            Path(self._job.artifact),
            model,
            self._images,
            self._job.input,
            self._job.precision,
            embedded=self._job.embeds_preprocessing,
        )


def _files(artifact: Path) -> list[Path]:
    return files_in(artifact) if artifact.is_dir() else [artifact]


def main() -> None:
    """Run the child."""
    answer(_answer, reason=lambda _, error: headline(error))


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    return to_json(_Search(from_json(Job, job)).run())


if __name__ == "__main__":
    main()
