"""What this machine can do at most and what a model asks of it, found in a process of its own.

In: threads, a checkpoint. Out: a `Capacity`; what could not be found is None, and it says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit.processes.numerics import pinned
from toolkit.schema import Limits, from_json

_TIMEOUT_S = 120

# In a process of its own: it loads torch, and its threads must not be those of the driver.
_MEASURE = """
import json, sys
from pathlib import Path
from dataclasses import replace
from toolkit.errors import headline
from toolkit.machine.gpu_limits import measure_gpu_limits
from toolkit.machine.limits import count_flops, measure_limits
from toolkit.schema import to_json
threads, folder, model, gpu = json.loads(sys.argv[1])
limits, failures = measure_limits(threads), []
if gpu:
    try:
        limits = replace(limits, gpu=measure_gpu_limits())
    except RuntimeError as error:  # of the driver, or of too little memory
        failures.append(f"the limits of the GPU cannot be measured: {headline(error)}")
found = {"limits": to_json(limits), "flops": None}
if folder is not None:
    from toolkit.checkpoints.storage import load_model
    try:
        module, record = load_model(Path(folder), trusted=model)
        found["flops"] = count_flops(module, record.input.shape)
    except Exception as error:
        failures.append(f"the model's FLOPs cannot be counted: {headline(error)}")
found["failure"] = "; ".join(failures) or None
print("\\nfound: " + json.dumps(found), flush=True)
"""
_ANSWER = "found: "
_FORBIDS_TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits of the machine and FLOPs of one image; `failure` says why they are not known."""

    limits: Limits | None
    flops_per_image: int | None
    failure: str | None


def measure_capacity(
    threads: int, *, checkpoint: Path | None = None, model: str | None = None, gpu: bool = False
) -> Capacity:
    """Measure the machine with `threads` threads, and count the checkpoint's FLOPs, in some 5 s.

    `model` is the factory that the user trusts, where it is not the toolkit's own. With `gpu` the
    CUDA device is measured too, in some 5 s more.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, sys.path))
    given = json.dumps([threads, None if checkpoint is None else str(checkpoint), model, gpu])
    try:
        done = subprocess.run(
            # -P: the child must not import what happens to lie in the current folder.
            [sys.executable, "-P", "-c", _MEASURE, given],
            env={**_environment(), **variables, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
        found = json.loads(lines[-1].removeprefix(_ANSWER))
        return Capacity(
            limits=from_json(Limits, found["limits"]),
            flops_per_image=found["flops"],
            failure=found["failure"],
        )
    except subprocess.TimeoutExpired:
        failure = f"no answer within {_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        failure = lines[-1] if lines else f"exit code {error.returncode}"
    return Capacity(limits=None, flops_per_image=None, failure=failure)


def _environment() -> dict[str, str]:
    """In which float32 means float32, and TF32 can be had by those who ask for it."""
    found = pinned(os.environ)
    return {name: value for name, value in found.items() if name not in _FORBIDS_TF32}
