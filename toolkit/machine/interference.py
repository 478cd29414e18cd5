"""The load from other processes and the hypervisor during a measurement.

In: CPU times of the machine and of our own processes, before and after. Out: `Interference`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil

from toolkit.machine.environment import usable_cpus
from toolkit.schema import Interference
from toolkit.timing import Stopwatch

_BUSY = ("user", "nice", "system", "irq", "softirq")  # guests' time is part of user and nice


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """CPU seconds since boot of the usable CPUs, and those that our own processes have used.

    `steal_s` is None if the system does not count it.
    """

    busy_s: float
    total_s: float
    steal_s: float | None
    own_s: float


class LoadWatch:
    """Watches from its creation. It reads only then and at the end, so it disturbs nothing.

    Our own processes are this one and its descendants, and the trees of the processes in `pids`.
    """

    def __init__(self, *, pids: Iterable[int] = ()) -> None:
        self._pids = tuple(pids)
        self._before = read_cpu_times(self._pids)
        self._watch = Stopwatch()

    def interference(self) -> Interference:
        """Return what others used since the start. Call it while our own processes are alive."""
        wall_s = self._watch.elapsed_s()
        return interference(self._before, read_cpu_times(self._pids), wall_s=wall_s)


def interference(before: CpuTimes, after: CpuTimes, *, wall_s: float) -> Interference:
    """Return busy time that was not our own, as a mean number of cores; steal as a share of all
    time."""
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    total_s = after.total_s - before.total_s
    steal_share = None
    if before.steal_s is not None and after.steal_s is not None and total_s > 0:
        steal_share = (after.steal_s - before.steal_s) / total_s
    return Interference(
        wall_s=wall_s, others_cores=max(0.0, others_s / wall_s), steal_share=steal_share
    )


def combined(parts: Sequence[Interference]) -> Interference | None:
    """Combine several periods into one: means over their time; None for an empty list."""
    wall_s = sum(part.wall_s for part in parts)
    if not parts:
        return None
    known = [part for part in parts if part.steal_share is not None]
    stolen_s = sum(part.wall_s * (part.steal_share or 0.0) for part in known)
    return Interference(
        wall_s=wall_s,
        others_cores=sum(part.wall_s * part.others_cores for part in parts) / wall_s,
        steal_share=stolen_s / sum(part.wall_s for part in known) if known else None,
    )


def read_cpu_times(pids: Iterable[int] = ()) -> CpuTimes:
    """Read the current times; `pids` as for `LoadWatch`."""
    cpus = set(usable_cpus())
    # psutil leaves out CPUs that are switched off, which are usually the last ones.
    rows = [
        row._asdict() for number, row in enumerate(psutil.cpu_times(percpu=True)) if number in cpus
    ]
    busy_s = sum(row.get(name, 0.0) for row in rows for name in _BUSY)
    steal = [row["steal"] for row in rows if "steal" in row]
    idle_s = sum(row["idle"] + row.get("iowait", 0.0) for row in rows)
    return CpuTimes(
        busy_s=busy_s,
        total_s=busy_s + idle_s + sum(steal),
        steal_s=sum(steal) if steal else None,
        own_s=sum(_tree_s(pids)),
    )


def _tree_s(pids: Iterable[int]) -> Iterable[float]:
    """Return CPU seconds of each of our processes, including its ended children."""
    family: set[psutil.Process] = set()
    for pid in (None, *pids):
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            family |= {root, *root.children(recursive=True)}
    for process in family:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system
