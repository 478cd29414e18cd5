"""The doctor: facts about this machine, load from other processes, limits, and warnings.

In: the running system. Out: a `Diagnosis`.
"""

from __future__ import annotations

from threading import Event

from toolkit.machine.capacity import measure_capacity
from toolkit.machine.environment import describe_environment
from toolkit.machine.fitness import judge
from toolkit.machine.interference import LoadWatch
from toolkit.machine.threads import check_threads
from toolkit.report.progress import Progress, silent
from toolkit.schema import Diagnosis

_WATCH_S = 0.5
_STEPS = ("facts", "load from others", "limits")


def doctor(*, threads: int | None = None, progress: Progress = silent) -> Diagnosis:
    """Check whether this machine is fit for benchmarks. Takes a few seconds.

    Args:
        threads: Threads that you plan to measure with; None uses all usable cores.
        progress: Receives the progress of each step.

    Raises:
        SettingError: `threads` is below 1.
    """
    threads = check_threads(threads)
    environment = describe_environment()
    progress("doctor", 1, len(_STEPS), _STEPS[1])
    watch = LoadWatch()
    Event().wait(_WATCH_S)
    interference = watch.interference()
    progress("doctor", 2, len(_STEPS), _STEPS[2])
    capacity = measure_capacity(threads, gpu=bool(environment.gpus))
    progress("doctor", 3, len(_STEPS))
    return Diagnosis(
        environment=environment,
        interference=interference,
        limits=capacity.limits,
        failure=capacity.failure,
        warnings=judge(environment, threads=threads, interference=interference),
    )
