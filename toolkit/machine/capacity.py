"""The limits of this machine and the FLOPs of a model, measured in a separate process.

In: threads, a checkpoint. Out: a `Capacity`. Unknown values are None, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.errors import FailedRun, headline
from toolkit.files.scratch import temporary_folder
from toolkit.processes.child import answer, run_apart
from toolkit.processes.confinement import Needs
from toolkit.schema import Limits, from_json, to_json

_TIMEOUT_S = 120.0
_CHILD = "toolkit.machine.capacity"
# On a GPU, TF32 is measured too; each product requests it. float32 stays float32.
_FORBIDS_TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits of the machine and FLOPs per image; `failure` says why they are unknown."""

    limits: Limits | None
    flops_per_image: int | None
    failure: str | None


def measure_capacity(
    threads: int, *, checkpoint: Path | None = None, model: str | None = None, gpu: bool = False
) -> Capacity:
    """Measure the machine with `threads` threads and count the FLOPs of the checkpoint (about 5 s).

    Args:
        threads: CPU threads.
        checkpoint: Checkpoint folder; None counts no FLOPs.
        model: The factory that the user trusts, if it is not part of the toolkit.
        gpu: Measure the CUDA device too (about 5 s more).
    """
    job = {
        "threads": threads,
        "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
        "model": model,
        "gpu": gpu,
    }
    try:
        with temporary_folder("capacity") as scratch:
            found = run_apart(
                _CHILD,
                job,
                scratch,
                what="the measurement",
                timeout_s=_TIMEOUT_S,
                threads=threads,
                without=_FORBIDS_TF32,
                needs=Needs(
                    reads=() if checkpoint is None else (checkpoint,), model=model, gpu=gpu
                ),
            )
    except FailedRun as failure:
        return Capacity(limits=None, flops_per_image=None, failure=failure.reason)
    return Capacity(
        limits=from_json(Limits, found["limits"]),
        flops_per_image=found["flops"],
        failure="; ".join(found["failures"]) or None,
    )


def main() -> None:
    """Run in the child, because it loads torch, and its threads must not be those of the driver."""
    answer(_measure, reason=lambda _, error: headline(error))


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    from toolkit.machine.gpu_limits import measure_gpu_limits
    from toolkit.machine.limits import measure_limits

    limits, flops, failures = measure_limits(job["threads"]), None, []
    if job["gpu"]:
        try:
            limits = replace(limits, gpu=measure_gpu_limits())
        except RuntimeError as error:  # from the driver, or too little memory
            failures.append(f"the limits of the GPU cannot be measured: {headline(error)}")
    if job["checkpoint"] is not None:
        try:
            flops = _count_flops(Path(job["checkpoint"]), job["model"])
        except Exception as error:  # noqa: BLE001 - the model's code is the user's
            failures.append(f"the model's FLOPs cannot be counted: {headline(error)}")
    return {"limits": to_json(limits), "flops": flops, "failures": failures}


def _count_flops(checkpoint: Path, model: str | None) -> int:
    from toolkit.checkpoints.storage import load_model
    from toolkit.machine.limits import count_flops

    module, record = load_model(checkpoint, trusted=model)
    return count_flops(module, record.input.shape)


if __name__ == "__main__":
    main()
