"""Work in a separate process, so that a crash or a hang ends only that process.

The parent calls `run_apart`, or `start_apart` to do something else meanwhile, with the name of a
module. The child runs that module, whose `main`
calls `answer`. The job and its outcome are JSON. The child's output goes to a log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import Crashed, FailedRun, TimedOut
from toolkit.files import RESULTS_BYTES, read_json, read_tail
from toolkit.interruption import uninterrupted
from toolkit.processes.confinement import Confinement, Needs, own_folders
from toolkit.processes.endings import FAILURES, exit_text, joined, tail_of
from toolkit.processes.numerics import pinned
from toolkit.timing import Stopwatch

_REQUEST, _OUTCOME, _LOG = "request.json", "outcome.json", "log"


class Apart:
    """A child process at work on a job."""

    def __init__(
        self, process: subprocess.Popen[bytes], scratch: Path, *, what: str, timeout_s: float
    ) -> None:
        self._process = process
        self._scratch = scratch
        self._what = what
        self._timeout_s = timeout_s
        self._watch = Stopwatch()

    @property
    def finished(self) -> bool:
        """Return whether `result` would return or raise at once."""
        return self._process.poll() is not None or self._watch.elapsed_s() > self._timeout_s

    def result(self) -> dict[str, Any]:
        """Wait for the end of the work, and return its result.

        Raises:
            FailedRun: The exception of the work, or how its process ended, with its last output.
        """
        try:
            code = self._process.wait(max(self._timeout_s - self._watch.elapsed_s(), 0))
        except subprocess.TimeoutExpired as error:
            raise TimedOut(
                f"{self._what} did not finish within {self._timeout_s:g} s and was stopped"
            ) from error
        _kill(self._process)  # and the processes that it started
        found = None
        with contextlib.suppress(OSError, ValueError):
            if code == 0:
                path = self._scratch / _OUTCOME
                found = read_json(path, most_bytes=RESULTS_BYTES, within=self._scratch)
        tail = tail_of(read_tail(self._scratch / _LOG, within=self._scratch))
        match found:
            case {"returned": dict(returned)}:
                return returned
            case {"error": str(status), "reason": str(reason), "traceback": str(where)}:
                raise FAILURES.get(status, Crashed)(reason, stderr_tail=joined(tail, where))
        raise Crashed(f"{self._what} ended: {exit_text(code)}", stderr_tail=tail)


def run_apart(
    module: str,
    job: dict[str, Any],
    scratch: Path,
    *,
    what: str,
    timeout_s: float,
    threads: int | None = None,
    without: Sequence[str] = (),
    needs: Needs = Needs(),  # noqa: B008 - it is frozen
) -> dict[str, Any]:
    """Run `python -m module` on a job, confined, and return the result of its work; see
    `start_apart` for the arguments.

    Raises:
        FailedRun: The exception of the work, or how its process ended, with its last output.
    """
    with start_apart(
        module,
        job,
        scratch,
        what=what,
        timeout_s=timeout_s,
        threads=threads,
        without=without,
        needs=needs,
    ) as child:
        return child.result()


@contextlib.contextmanager
def start_apart(
    module: str,
    job: dict[str, Any],
    scratch: Path,
    *,
    what: str,
    timeout_s: float,
    threads: int | None = None,
    without: Sequence[str] = (),
    needs: Needs = Needs(),  # noqa: B008 - it is frozen
) -> Iterator[Apart]:
    """Start `python -m module` on a job, confined; it is killed at the end of the block.

    Args:
        module: Its `main` calls `answer`.
        job: JSON-ready values.
        scratch: The child's home, temporary folder and working folder.
        what: Names the work in messages.
        timeout_s: The child is killed this many seconds after its start.
        threads: Threads of OpenMP and MKL in the child; None leaves them to the libraries.
        without: Environment variables that the child does not get.
        needs: What it reads, writes and uses besides its libraries and `scratch`.
    """
    request = scratch / _REQUEST
    request.write_text(json.dumps({**job, _OUTCOME: str(scratch.resolve() / _OUTCOME)}))
    environment = _environment(scratch, threads)
    for name in without:
        environment.pop(name, None)
    process = None
    with Confinement(scratch, needs) as confined:
        try:
            log = scratch / _LOG
            with request.open("rb") as given, log.open("wb") as output, uninterrupted():
                process = subprocess.Popen(
                    [*confined.command, "-m", module],
                    stdin=given,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=scratch,
                    start_new_session=True,
                )
            yield Apart(process, scratch, what=what, timeout_s=timeout_s)
        finally:  # the child and the processes that it started
            with uninterrupted():
                if process is not None:
                    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the session of a child that may have ended, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(scratch: Path, threads: int | None) -> dict[str, str]:
    """Return the child's environment: the caller's import paths, its own home, fixed arithmetic."""
    environment = {
        **pinned(os.environ),
        "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path),
        **own_folders(scratch),
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return environment


def answer(
    work: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    reason: Callable[[dict[str, Any], BaseException], str],
) -> None:
    """Run in the child: do the work of the job on stdin, write its outcome, and end.

    `reason` explains an exception that has no explanation of its own.
    """
    job = json.load(sys.stdin)
    path = Path(job.pop(_OUTCOME))
    try:
        outcome: dict[str, Any] = {"returned": work(job)}
    except Exception as error:  # noqa: BLE001 - the boundary of the child: every exception becomes a row
        outcome = {"error": "crashed", "reason": reason(job, error)}
        if isinstance(error, FailedRun):
            outcome = {"error": error.status, "reason": error.reason}
        elif isinstance(error, MemoryError):
            outcome["error"] = "out_of_memory"
        outcome["traceback"] = traceback.format_exc()
    path.write_text(json.dumps(outcome))
    sys.stdout.flush()
    os._exit(0)  # some libraries crash or hang while they shut down
