"""The limits of this machine and the FLOPs of a model, measured in a separate process.

In: threads, a checkpoint. Out: a `Capacity`. Unknown values are None, with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit.schema import Limits, from_json

_TIMEOUT_S = 120

# A separate process, because it loads torch, and its threads must not be those of the driver.
_MEASURE = """
import json, sys
from pathlib import Path
from toolkit.errors import headline
from toolkit.machine.limits import count_flops, measure_limits
from toolkit.schema import to_json
threads, folder, model = json.loads(sys.argv[1])
found = {"limits": to_json(measure_limits(threads)), "flops": None, "failure": None}
if folder is not None:
    from toolkit.checkpoints.storage import load_model
    try:
        module, record = load_model(Path(folder), trusted=model)
        found["flops"] = count_flops(module, record.input.shape)
    except Exception as error:
        found["failure"] = f"the model's FLOPs cannot be counted: {headline(error)}"
print("\\nfound: " + json.dumps(found), flush=True)
"""
_ANSWER = "found: "


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits of the machine and FLOPs per image; `failure` says why they are unknown."""

    limits: Limits | None
    flops_per_image: int | None
    failure: str | None


def measure_capacity(
    threads: int, *, checkpoint: Path | None = None, model: str | None = None
) -> Capacity:
    """Measure the machine with `threads` threads and count the FLOPs of the checkpoint (about 5 s).

    `model` is the factory that the user trusts, if it is not part of the toolkit.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, sys.path))
    given = json.dumps([threads, None if checkpoint is None else str(checkpoint), model])
    try:
        done = subprocess.run(
            # -P: the child must not import files from the current folder.
            [sys.executable, "-P", "-c", _MEASURE, given],
            env={**os.environ, **variables, "PYTHONPATH": path},
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
