"""Each fact that speaks against measuring gives its warning, with a flag or command that exists."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from toolkit.cli import commands
from toolkit.fitness import judge
from toolkit.schema import Environment, Interference, MachineWarning

QUIET = Environment(
    time="2026-01-02T03:04:05+00:00",
    platform="Linux",
    machine="x86_64",
    cpu="a processor",
    isa=("avx2",),
    cores=8,
    physical_cores=4,
    logical_cores=8,
    governor="performance",
    turbo=False,
    temperature_c=60.0,
    critical_temperature_c=100.0,
    on_battery=False,
    memory_bytes=16_000_000_000,
    available_memory_bytes=8_000_000_000,
    swap_used_bytes=0,
    load_average=0.1,
    python="3.11.7",
    versions={},
)
ALONE = Interference(wall_s=1.0, others_cores=0.05, steal_share=0.0)
UNKNOWN = replace(
    QUIET,
    **dict.fromkeys(("physical_cores", "governor", "turbo", "temperature_c", "on_battery")),
    **dict.fromkeys(("critical_temperature_c", "available_memory_bytes", "swap_used_bytes")),
)
WORST = replace(
    QUIET,
    cores=3,
    cpu_quota=2.5,
    governor="powersave",
    turbo=True,
    temperature_c=99.0,
    on_battery=True,
    available_memory_bytes=1_000_000_000,
    swap_used_bytes=2_000_000_000,
)


def judged(
    *, threads: int = 4, others: float = 0.0, steal: float | None = 0.0, **changes: Any
) -> list[tuple[str, str]]:
    taken = Interference(wall_s=1.0, others_cores=others, steal_share=steal)
    found = judge(replace(QUIET, **changes), threads=threads, interference=taken)
    return [(warning.code, warning.action) for warning in found]


def test_a_quiet_machine_gets_no_warning() -> None:
    assert judge(QUIET, threads=4, interference=ALONE) == ()


def test_what_is_unknown_gives_no_warning() -> None:
    assert judge(UNKNOWN, threads=8) == ()
    assert judged(steal=None) == []


@pytest.mark.parametrize(
    ("changes", "code", "action"),
    [
        ({"others": 1.0}, "others", "close them"),
        ({"steal": 0.02}, "steal", "`--"),
        ({"threads": 9}, "threads", "`--threads 8`"),
        ({"threads": 8}, "siblings", "`--threads 4`"),
        ({"threads": 5}, "siblings", "`--threads 4`"),
        ({"cpu_quota": 2.5}, "quota", "`--threads 2`"),
        ({"cpu_quota": 0.5}, "quota", "`--threads 1`"),
        ({"cpu_quota": 2.5}, "quota", "`docker run --cpus 3`"),
        ({"governor": "powersave"}, "governor", "`sudo cpupower frequency-set -g performance`"),
        ({"governor": "performance, schedutil"}, "governor", "cpupower"),
        ({"on_battery": True}, "battery", "plug it in"),
        ({"temperature_c": 91.0}, "heat", "cool"),
        ({"temperature_c": 91.0, "critical_temperature_c": None}, "heat", "cool"),
        ({"temperature_c": 76.0, "critical_temperature_c": 85.0}, "heat", "cool"),
        ({"available_memory_bytes": 1_500_000_000}, "memory", "close programs"),
        ({"swap_used_bytes": 300_000_000}, "swap", "swapoff"),
        ({"turbo": True}, "turbo", "no_turbo"),
    ],
)
def test_one_fact_one_warning(changes: dict[str, Any], code: str, action: str) -> None:
    ((found, hint),) = judged(**changes)
    assert found == code
    assert action in hint


@pytest.mark.parametrize(
    "changes",
    [
        {"others": 0.19},
        {"others": 1.2, "cores": 64, "physical_cores": 64},
        {"steal": 0.01},
        {"threads": 1},
        {"threads": 8, "physical_cores": 8},
        {"threads": 8, "physical_cores": None},
        {"cpu_quota": 4.0},
        {"temperature_c": 89.0},
        {"available_memory_bytes": 1_600_000_000},
        {"swap_used_bytes": 200_000_000},
    ],
)
def test_little_is_not_too_much(changes: dict[str, Any]) -> None:
    assert judged(**changes) == []


def everything() -> tuple[MachineWarning, ...]:
    taken = Interference(wall_s=1.0, others_cores=1.0, steal_share=0.5)
    return (
        *judge(WORST, threads=4, interference=taken),
        *judge(replace(WORST, physical_cores=2), threads=3),
    )


def test_the_worst_machine_gets_every_warning_and_the_gravest_first() -> None:
    codes = list(dict.fromkeys(warning.code for warning in everything()))
    assert codes[:2] == ["others", "steal"]
    assert set(codes) == {
        *("others", "steal", "threads", "siblings", "quota", "governor"),
        *("battery", "heat", "memory", "swap", "turbo"),
    }


def test_every_flag_that_a_warning_names_is_one_of_bench() -> None:
    options = {flag for option in commands.commands["bench"].params for flag in option.opts}
    named = {flag for each in everything() for flag in re.findall(r"`(--[a-z-]+)", each.action)}
    assert {"--threads"} < named <= options
