"""What machine and which versions the numbers come from.

In: the running system. Out: an `Environment` record.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from pathlib import Path

from toolkit.schema import Environment
from toolkit.timing import now
from toolkit.versions import versions_of

_ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "asimddp", "fphp", "i8mm", "bf16", "sve")
_PACKAGES = ("toolkit", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")


def describe_environment() -> Environment:
    """The record of this machine, now."""
    import psutil

    flags = set(_cpuinfo("flags", "Features").split())
    return Environment(
        time=now().isoformat(timespec="seconds"),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=_cpuinfo("model name") or platform.processor() or "unknown",
        isa=tuple(flag for flag in (*_ISA_FLAGS, *_ARM_FLAGS) if flag in flags),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        versions=versions_of(*_PACKAGES),
    )


def usable_cores() -> int:
    """Cores that this process may use: affinity and the cgroup's quota counted in."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores()))


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since boot; 0 where unknown."""
    found = re.search(r"^oom_kill (\d+)$", _read("/proc/vmstat"), re.MULTILINE)
    return int(found[1]) if found else 0


def peak_memory_bytes() -> int:
    """This process's own high-water mark of resident memory.

    Linux's `ru_maxrss` also holds what the parent used before exec, so `VmHWM` is read there.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _cgroup_cores() -> int:
    """The cgroup v2 quota in whole cores, rounded up; a large number where there is none."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return math.ceil(int(quota) / int(period)) if quota.isdigit() and period.isdigit() else 1 << 20


def _cpuinfo(*keys: str) -> str:
    for key in keys:
        found = re.search(rf"^{key}\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
        if found:
            return found[1]
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
