"""Export in a process apart: a converter that crashes takes its own process with it.

The parent calls `export_apart`; the child runs this module, reads a job from stdin and writes its
outcome to a file. What converters print goes to a log, what they put into the home or the temporary
folder goes with the scratch folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import (
    Crashed,
    FailedRun,
    NotInstalled,
    OutOfMemory,
    TimedOut,
    Unsupported,
    headline,
)
from toolkit.formats import Format, Request, Written, find_format, load_exporter
from toolkit.numerics import pinned
from toolkit.schema import CheckpointId, Isa, Precision, from_json, to_json

_STDERR_TAIL_LINES = 40
_FAILURES = {kind.status: kind for kind in (Crashed, OutOfMemory, NotInstalled, Unsupported)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the child needs: names and paths only, it loads the checkpoint itself."""

    format: str
    precision: Precision
    checkpoint: str
    checkpoint_id: CheckpointId
    model: str | None
    path: str
    calibration: str
    isas: tuple[Isa, ...] | None
    outcome: str


def export_apart(
    row: Format,
    *,
    precision: Precision,
    checkpoint: Path,
    checkpoint_id: CheckpointId,
    model: str | None,
    path: Path,
    calibration: NDArray[np.float32],
    isas: tuple[Isa, ...] | None,
    timeout_s: float,
) -> Written:
    """Write `path` in a child process; see `Request` for the rest.

    Raises:
        FailedRun: what the converter raised, or how its process ended, with what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-export-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        np.save(scratch / "calibration.npy", calibration)
        job = Job(
            format=row.name,
            precision=precision,
            checkpoint=str(checkpoint.resolve()),
            checkpoint_id=checkpoint_id,
            model=model,
            path=str(path.resolve()),
            calibration=str(scratch / "calibration.npy"),
            isas=isas,
            outcome=str(scratch / "outcome.json"),
        )
        log = scratch / "log"
        code = _run(job, scratch, log, timeout_s=timeout_s)
        outcome = scratch / "outcome.json"
        found = json.loads(outcome.read_text()) if code == 0 and outcome.exists() else None
        lines = log.read_text(errors="replace").splitlines()
    tail = "\n".join(lines[-_STDERR_TAIL_LINES:])
    if found is None:
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise Crashed(f"format {row.name} {precision}: its converter ended: {ended}",
                      stderr_tail=tail)  # fmt: skip
    if "error" in found:
        tail = "\n".join(filter(None, [tail, found["traceback"].strip()]))
        raise _FAILURES[found["error"]](found["reason"], stderr_tail=tail)
    return from_json(Written, found)


def _run(job: Job, scratch: Path, log: Path, *, timeout_s: float) -> int:
    """The child's exit code; a negative one is the signal that ended it.

    Raises:
        TimedOut: it was killed.
    """
    environment = {
        **pinned(os.environ),
        "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path),
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(scratch)),
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    # -P: the child must not import what happens to lie in the current folder.
    command = [sys.executable, "-P", "-m", "toolkit.exporting"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=scratch,
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(asdict(job)).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"format {job.format}: after {timeout_s:g} s") from error
        finally:  # it, and what it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


def main() -> None:
    """The child's side."""
    from toolkit.checkpoint import load_same_model, read_checkpoint
    from toolkit.model import example_input, exportable

    job = from_json(Job, json.load(sys.stdin))
    try:
        folder = Path(job.checkpoint)
        module = load_same_model(folder, job.checkpoint_id, trusted=job.model)
        example = example_input(read_checkpoint(folder).input.shape, batch_size=2)
        request = Request(
            model=exportable(module, example),
            example=example,
            path=Path(job.path),
            precision=job.precision,
            calibration=np.load(job.calibration),
            isas=job.isas,
        )
        outcome: dict[str, Any] = to_json(load_exporter(find_format(job.format)).export(request))
    except Exception as error:  # noqa: BLE001 - the child's boundary: all become a row
        outcome = {"error": "crashed", "reason": cannot_export(job.format, error)}
        if isinstance(error, FailedRun):
            outcome = {"error": error.status, "reason": error.reason}
        elif isinstance(error, MemoryError):
            outcome["error"] = "out_of_memory"
        outcome["traceback"] = traceback.format_exc()
    Path(job.outcome).write_text(json.dumps(outcome))


def cannot_export(format: str, error: BaseException) -> str:
    """The reason of a row."""
    return f"format {format} cannot export this model: {headline(error)}"


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # some converters' libraries crash or hang while they are taken down
