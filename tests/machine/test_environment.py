"""Facts of recorded machines are read correctly, missing ones are None, and this machine's are
true."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from toolkit.machine import environment
from toolkit.machine.environment import (
    NewThreads,
    cpu_name,
    cpu_quota,
    describe_environment,
    governor,
    gpus,
    instruction_sets,
    last_level_cache_bytes,
    physical_cores,
    turbo,
    usable_cores,
    usable_cpus,
)
from toolkit.packages import dependency_versions
from toolkit.schema import Gpu

Tree = Callable[[dict[str, str]], Path]
CPUS = "sys/devices/system/cpu"
CGROUP = "sys/fs/cgroup"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write files below a temporary root: `tree({"proc/cpuinfo": "…"})`."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def v1(folder: str, quota: int) -> dict[str, str]:
    return {
        f"{CGROUP}/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{CGROUP}/{folder}/cpu.cfs_period_us": "100000\n",
    }


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {f"{CGROUP}/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {f"{CGROUP}/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {f"{CGROUP}/a/b/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {f"{CGROUP}/a/cpu.max": "50000 100000\n"}, 0.5),
        (
            "0::/a/b\n",
            {
                f"{CGROUP}/a/cpu.max": "400000 100000\n",
                f"{CGROUP}/a/b/cpu.max": "200000 100000\n",
                f"{CGROUP}/c/cpu.max": "1000 100000\n",
            },
            2.0,
        ),
        ("4:memory:/\n3:cpu,cpuacct:/\n0::/\n", v1("cpu,cpuacct", 250_000), 2.5),
        ("4:cpu:/\n3:cpuacct:/\n", v1("cpu", -1), None),
        ("4:cpu:/slice\n", v1("cpu/slice", 100_000), 1.0),
        ("4:cpu:/docker/0123\n", v1("cpu", 300_000), 3.0),  # the host's path, seen from inside
        ("4:cpuset:/\n1:name=systemd:/\n", v1("cpuset", 100_000), None),
        ("0::/../other\n", {f"{CGROUP}/../other/cpu.max": "1000 100000\n"}, None),
        ("", {}, None),
    ],
)
def test_cpu_quota_is_read_from_cgroups(
    tree: Tree, membership: str, files: dict[str, str], cores: float | None
) -> None:
    assert cpu_quota(tree({"proc/self/cgroup": membership, **files})) == cores


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (1e6, None)])
def test_quota_bounds_the_usable_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int | None
) -> None:
    monkeypatch.setattr(environment, "cpu_quota", lambda: quota)
    monkeypatch.setattr(environment, "usable_cpus", lambda: list(range(4)))
    assert usable_cores() == (cores or 4)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["performance\n"], "performance"),
        (["powersave\n", "powersave\n"], "powersave"),
        (["schedutil\n", "performance\n"], "performance, schedutil"),
        ([], None),
    ],
)
def test_governor_is_read(tree: Tree, names: list[str], found: str | None) -> None:
    files = {f"{CPUS}/cpufreq/policy{n}/scaling_governor": name for n, name in enumerate(names)}
    assert governor(tree(files)) == found


@pytest.mark.parametrize(
    ("files", "on"),
    [
        ({f"{CPUS}/intel_pstate/no_turbo": "0\n"}, True),
        ({f"{CPUS}/intel_pstate/no_turbo": "1\n"}, False),
        ({f"{CPUS}/cpufreq/boost": "1\n"}, True),
        ({f"{CPUS}/cpufreq/boost": "0\n"}, False),
        ({}, None),
    ],
)
def test_turbo_is_read(tree: Tree, files: dict[str, str], on: bool | None) -> None:
    assert turbo(tree(files)) is on


def test_smt_siblings_count_as_one_core(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "usable_cpus", lambda: [0, 2, 3])
    lists = {0: "0,4\n", 2: "2-3\n", 3: "2-3\n"}
    files = {f"{CPUS}/cpu{n}/topology/thread_siblings_list": text for n, text in lists.items()}
    assert physical_cores(tree(files)) == 2
    monkeypatch.setattr(environment, "usable_cpus", lambda: [0, 1])
    assert physical_cores(tree(files)) is None


INTEL = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu sse2 avx2 fma avx512f amx_tile\n"
BOARD = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\nCPU part\t: 0xd0b\n"


def test_processor_name_and_instruction_sets_are_read(tree: Tree) -> None:
    root = tree({"proc/cpuinfo": INTEL})
    assert cpu_name(root) == "Some Xeon"
    assert instruction_sets(root) == ("avx2", "fma", "avx512f", "amx_tile")


def test_arm_board_name_is_read(tree: Tree) -> None:
    root = tree({"proc/cpuinfo": BOARD, "proc/device-tree/model": "Raspberry Pi 5 Rev 1.0\0"})
    assert cpu_name(root) == "Raspberry Pi 5 Rev 1.0"
    assert instruction_sets(root) == ("asimd", "asimddp")


def test_last_level_cache_sizes_are_summed(tree: Tree) -> None:
    files: dict[str, str] = {}
    for cpu in range(4):
        for index, level, size, shared in (
            (0, 1, "32K", f"{cpu}"),
            (2, 2, "1024K", f"{cpu}"),
            (3, 3, "16384K", "0-1" if cpu < 2 else "2-3"),
        ):
            folder = f"{CPUS}/cpu{cpu}/cache/index{index}"
            files |= {f"{folder}/level": f"{level}\n", f"{folder}/size": f"{size}\n"}
            files |= {f"{folder}/shared_cpu_list": f"{shared}\n"}
    assert last_level_cache_bytes(tree(files)) == 2 * 16384 * 1024


def test_missing_files_give_none(tmp_path: Path) -> None:
    for read in (cpu_quota, governor, turbo, physical_cores, last_level_cache_bytes):
        assert read(tmp_path) is None, read
    assert cpu_name(tmp_path)
    assert isinstance(instruction_sets(tmp_path), tuple)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace `nvidia-smi`, which this machine may lack, by a shell script."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_nvidia_smi_output_is_parsed(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi(
        '[ "$1" = --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,temperature.gpu,'
        'utilization.gpu,persistence_mode ] && [ "$2" = --format=csv,noheader,nounits ] || exit 2\n'
        "echo 'NVIDIA H200, 570.86.15, 345, 1980, 31, 7, Enabled'\n"
        "echo 'Quadro, 470.1, [N/A], [Not Supported], 40, [N/A], Disabled'"
    )
    unknown = {"clock_hz": None, "max_clock_hz": None, "utilization": None}
    assert gpus() == (
        Gpu(
            name="NVIDIA H200",
            driver="570.86.15",
            clock_hz=345e6,
            max_clock_hz=1980e6,
            temperature_c=31.0,
            utilization=0.07,
            persistence_mode=True,
        ),
        Gpu(name="Quadro", driver="470.1", temperature_c=40.0, persistence_mode=False, **unknown),
    )


@pytest.mark.parametrize(
    "script",
    [
        "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
        "echo 'No devices were found'",
        f"exec {sys.executable} -c 'import time; time.sleep(3600); print(\"H200,1,1,1,1,1,\")'",
    ],
)
def test_failing_or_hanging_nvidia_smi_means_no_gpu(
    nvidia_smi: Callable[[str], None], script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_PROGRAM_TIMEOUT_S", 1)
    nvidia_smi(script)
    assert gpus() == ()


def test_missing_nvidia_smi_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()


def test_hottest_sensor_of_the_processor_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded sensors, because few machines that run tests have any."""

    def sensor(current: float, critical: float | None) -> SimpleNamespace:
        return SimpleNamespace(current=current, critical=critical)

    found = {"nvme": [sensor(99.0, 100.0)], "coretemp": [sensor(50.0, 100.0), sensor(61.0, 105.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found, raising=False)
    here = describe_environment()
    assert (here.temperature_c, here.critical_temperature_c) == (61.0, 105.0)


def test_battery_state_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for plugged, on_battery in ((True, False), (False, True), (None, None)):
        state = SimpleNamespace(power_plugged=plugged)
        monkeypatch.setattr(psutil, "sensors_battery", lambda state=state: state, raising=False)
        assert describe_environment().on_battery is on_battery


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's own files")
def test_description_of_this_machine_is_plausible() -> None:
    here = describe_environment()
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    nproc = int(subprocess.check_output(["nproc"], text=True))
    assert here.memory_bytes == memory["MemTotal"]
    assert here.swap_used_bytes is not None
    assert abs(here.swap_used_bytes - memory["SwapTotal"] + memory["SwapFree"]) < 100e6
    assert here.cores == max(1, min(nproc, math.ceil(here.cpu_quota or nproc)))
    assert here.physical_cores is None or here.physical_cores <= len(usable_cpus())
    assert here.versions["torch"] == dependency_versions("torch")["torch"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has affinity")
def test_affinity_limits_the_usable_cores() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))});"
        "from toolkit.machine.environment import describe_environment as d;"
        "print(d().cores, d().physical_cores in (1, None), d().logical_cores == os.cpu_count())"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert answer.split() == ["1", "True", "True"]


def test_other_systems_do_not_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    here = describe_environment()
    assert here.cores == os.cpu_count() or here.cpu_quota
    assert here.temperature_c is None


def test_versions_cover_all_dependencies() -> None:
    found = dependency_versions("toolkit")
    assert {"toolkit", "torch", "onnxruntime", "numpy", "psutil"} <= set(found)
    assert not {"pytest", "ruff", "mypy"} & set(found)
    assert dependency_versions("no-such-distribution") == {}


def test_new_threads_are_counted_when_old_ones_end() -> None:
    """Like a thread pool of an earlier session, some time after that session has ended."""
    ends, goes_on = threading.Event(), threading.Event()
    old = [threading.Thread(target=ends.wait) for _ in range(3)]
    new = [threading.Thread(target=goes_on.wait) for _ in range(2)]
    for thread in old:
        thread.start()
    counted = NewThreads()
    assert counted.count() == 0
    for thread in new:
        thread.start()
    ends.set()
    for thread in old:
        thread.join()
    assert counted.count() == 2
    goes_on.set()
    for thread in new:
        thread.join()


def test_new_threads_are_unknown_if_the_system_does_not_list_them(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_ROOT", tree({}))
    assert NewThreads().count() is None
