"""The doctor: facts about this machine, what others take of it, its limits, and warnings.

In: the running system. Out: a `Diagnosis`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from threading import Event

from toolkit.environment import describe_environment
from toolkit.fitness import judge
from toolkit.interference import LoadWatch
from toolkit.progress import Progress, silent
from toolkit.schema import Diagnosis, Limits, from_json
from toolkit.settings import check_threads

_WATCH_S = 0.5
_LIMITS_TIMEOUT_S = 120
_STEPS = ("facts", "load of others", "limits")

# In a process of its own: it loads torch, and its threads must not be those of the driver.
_MEASURE = """
import json, sys
from toolkit.limits import measure_limits
from toolkit.schema import to_json
print(json.dumps(to_json(measure_limits(int(sys.argv[1])))))
"""


def doctor(*, threads: int | None = None, progress: Progress = silent) -> Diagnosis:
    """Look at this machine: is it fit to measure on? Takes some seconds.

    Args:
        threads: Threads that you mean to measure with; None takes all usable cores.
        progress: Told about each step.

    Raises:
        SettingError: `threads` below 1.
    """
    threads = check_threads(threads)
    environment = describe_environment()
    progress("doctor", 1, len(_STEPS), _STEPS[1])
    watch = LoadWatch()
    Event().wait(_WATCH_S)
    interference = watch.interference()
    progress("doctor", 2, len(_STEPS), _STEPS[2])
    limits, failure = _limits(threads)
    progress("doctor", 3, len(_STEPS))
    return Diagnosis(
        environment=environment,
        interference=interference,
        limits=limits,
        failure=failure,
        warnings=judge(environment, threads=threads, interference=interference),
    )


def _limits(threads: int) -> tuple[Limits | None, str | None]:
    """The limits, or why they could not be measured."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(
            # -P: the child must not import what happens to lie in the current folder.
            [sys.executable, "-P", "-c", _MEASURE, str(threads)],
            env={**os.environ, **variables, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=_LIMITS_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_LIMITS_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"exit code {error.returncode}"
    return from_json(Limits, json.loads(done.stdout.splitlines()[-1])), None
