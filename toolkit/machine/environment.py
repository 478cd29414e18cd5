"""Facts about the machine and the installed versions.

In: the running system. Out: an `Environment` record. Values that cannot be read are None.

Functions with a `root` read Linux's /proc and /sys below it; on other systems they find nothing.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from toolkit.machine.gpu_state import all_states
from toolkit.packages import dependency_versions
from toolkit.processes.confinement import offered
from toolkit.schema import Environment, Gpu
from toolkit.timing import now

_ISA_FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
_GPU_QUERY = (
    *("name", "driver_version", "clocks.sm", "clocks.max.sm"),
    *("temperature.gpu", "utilization.gpu", "persistence_mode"),
)
_PROGRAM_TIMEOUT_S = 10
_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"


def describe_environment() -> Environment:
    """Describe this machine as it is now.

    This takes milliseconds, plus the time of `nvidia-smi` if it is installed, so every result
    contains it. Call it before the work starts: afterwards, `load_average` and `temperature_c` show
    that work.
    """
    import psutil

    memory = psutil.virtual_memory()
    temperature_c, critical_c = _temperature_c()
    frequency_hz, max_frequency_hz = _frequency_hz()
    return Environment(
        time=now().isoformat(timespec="seconds"),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_name(),
        isa=instruction_sets(),
        cores=usable_cores(),
        physical_cores=physical_cores(),
        logical_cores=os.cpu_count(),
        cpu_quota=cpu_quota(),
        governor=governor(),
        turbo=turbo(),
        frequency_hz=frequency_hz,
        max_frequency_hz=max_frequency_hz,
        temperature_c=temperature_c,
        critical_temperature_c=critical_c,
        on_battery=_on_battery(),
        memory_bytes=memory.total,
        available_memory_bytes=memory.available,
        swap_used_bytes=psutil.swap_memory().used,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpus=gpus(),
        confinement=offered(),
        python=platform.python_version(),
        versions=dependency_versions("toolkit"),
    )


def usable_cpus() -> list[int]:
    """Return the numbers of the logical CPUs that this process may run on."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Return the number of cores that this process may use, given its affinity and the container's
    quota."""
    quota = cpu_quota()
    return min(len(usable_cpus()), math.ceil(quota) if quota else 1 << 20)


def physical_cores(root: Path = _ROOT) -> int | None:
    """Return the number of usable physical cores. SMT siblings share one core's arithmetic units
    and count once."""
    if sys.platform != "linux":
        import psutil

        return psutil.cpu_count(logical=False)
    files = (root / _CPUS / f"cpu{n}/topology/thread_siblings_list" for n in usable_cpus())
    siblings = {_read(file) for file in files}
    return None if "" in siblings else len(siblings)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return a container's limit in cores: the lowest of its cgroup and those above it, v1 or
    v2."""
    quotas = (_quota(folder) for folder in _cgroups(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def cpu_name(root: Path = _ROOT) -> str:
    """Return the name of the processor, or of the board on ARM, where the kernel does not name the
    processor."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.processor()
    board = _read(root / "proc/device-tree/model").rstrip("\0\n")
    return _cpuinfo(root, "model name") or board or platform.processor() or "unknown"


def instruction_sets(root: Path = _ROOT) -> tuple[str, ...]:
    """Return the vector instruction sets, with Linux's names (`asimd` is NEON)."""
    flags = set(_cpuinfo(root, "flags", "Features").split())
    if not flags and platform.machine() in ("arm64", "aarch64"):
        return ("asimd",)  # part of every 64-bit ARM processor
    return tuple(flag for flag in _ISA_FLAGS if flag in flags)


def governor(root: Path = _ROOT) -> str | None:
    """Return the frequency governor, or several if cores differ."""
    files = (root / _CPUS / "cpufreq").glob("policy*/scaling_governor")
    return ", ".join(sorted({_read(file).strip() for file in files} - {""})) or None


def turbo(root: Path = _ROOT) -> bool | None:
    """Return whether cores may run above their nominal clock."""
    no_turbo = _read(root / _CPUS / "intel_pstate/no_turbo").strip()
    boost = _read(root / _CPUS / "cpufreq/boost").strip()
    if no_turbo:
        return no_turbo == "0"
    return boost == "1" if boost else None


def last_level_cache_bytes(root: Path = _ROOT) -> int | None:
    """Return the total size of all last-level caches."""
    caches: dict[int, dict[str, int]] = {}  # level → CPUs that share a cache → its size in bytes
    for folder in (root / _CPUS).glob("cpu[0-9]*/cache/index[0-9]*"):
        level, size = _read(folder / "level").strip(), _read(folder / "size").strip()
        if level.isdigit() and size.removesuffix("K").isdigit():
            shared = caches.setdefault(int(level), {})
            shared[_read(folder / "shared_cpu_list")] = int(size.removesuffix("K")) * 1024
    return sum(caches[max(caches)].values()) if caches else None


def gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that `nvidia-smi` describes, with their states from NVML; none if
    that program is missing."""
    query = f"--query-gpu={','.join(_GPU_QUERY)}"
    table = _output("nvidia-smi", query, "--format=csv,noheader,nounits")
    rows = csv.reader(table.splitlines(), skipinitialspace=True)
    found = [_gpu(*row) for row in rows if len(row) == len(_GPU_QUERY)]
    states = all_states() if found else []
    if len(states) != len(found):
        return tuple(found)
    return tuple(replace(gpu, state=state) for gpu, state in zip(found, states, strict=True))


class NewThreads:
    """Count the threads that this process starts from now on, as the kernel lists them. A thread of
    an earlier session that ends in the meantime does not reduce the count."""

    def __init__(self) -> None:
        self._before = _thread_ids()

    def count(self) -> int | None:
        """Return the count so far, or None if the system does not provide it."""
        now = _thread_ids()
        return None if now is None or self._before is None else len(now - self._before)


def _thread_ids() -> frozenset[Path] | None:
    try:
        return frozenset((_ROOT / "proc/self/task").iterdir())
    except OSError:
        return None


def oom_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory since boot; 0 if
    unknown."""
    found = re.search(r"^oom_kill (\d+)$", _read(_ROOT / "proc/vmstat"), re.MULTILINE)
    return int(found[1]) if found else 0


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process.

    Linux's `ru_maxrss` includes the memory of the parent before exec, so `VmHWM` is read there.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _read(_ROOT / "proc/self/status"), re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def page_faults() -> int:
    """Return how many pages of memory the system has given this process, not counting pages read
    from disk."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _frequency_hz() -> tuple[float | None, float | None]:
    """Return the current and the highest clock frequency."""
    import psutil

    with contextlib.suppress(
        OSError, RuntimeError
    ):  # psutil answers differently if there is no value
        found = psutil.cpu_freq()
        if found is not None:
            return found.current * 1e6 or None, found.max * 1e6 or None
    return None, None


def _temperature_c() -> tuple[float | None, float | None]:
    """Return the hottest sensor of the processor, and its critical temperature."""
    if sys.platform != "linux":
        return None, None
    import psutil

    sensors = psutil.sensors_temperatures()
    readings = [reading for name in _CPU_SENSORS for reading in sensors.get(name, ())]
    if not readings:
        return None, None
    hottest = max(readings, key=lambda reading: reading.current)
    return hottest.current, hottest.critical or None


def _on_battery() -> bool | None:
    import psutil

    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def _gpu(
    name: str, driver: str, clock: str, most: str, temperature: str, used: str, persistence: str
) -> Gpu:
    clock_mhz, max_clock_mhz, percent = _number(clock), _number(most), _number(used)
    return Gpu(
        name=name,
        driver=driver,
        clock_hz=None if clock_mhz is None else clock_mhz * 1e6,
        max_clock_hz=None if max_clock_mhz is None else max_clock_mhz * 1e6,
        temperature_c=_number(temperature),
        utilization=None if percent is None else percent / 100,
        persistence_mode={"Enabled": True, "Disabled": False}.get(persistence),
    )


def _number(text: str) -> float | None:
    """Parse a number; `nvidia-smi` writes `[N/A]` or `[Not Supported]` for unknown values."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _cgroups(root: Path) -> Iterator[Path]:
    """Return the folders of this process's cgroup and those above it, where CPU time is limited."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        inside = Path(path.lstrip("/"))
        yield from (mount / part for part in (inside, *inside.parents) if ".." not in part.parts)


def _quota(cgroup: Path) -> float | None:
    limit = _read(cgroup / "cpu.max").split() or [  # `max 100000` without a limit; v1: -1
        _read(cgroup / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    quota, period = limit
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _cpuinfo(root: Path, *keys: str) -> str:
    for key in keys:
        found = re.search(rf"^{key}\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
        if found:
            return found[1]
    return ""


def _output(program: str, *arguments: str) -> str:
    """Return the output of a program, or an empty text if it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=True,
        ).stdout
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
