"""Warnings about a machine or a measurement, each with the flag or action that helps.

In: an `Environment`, the number of threads, and the load from other processes; or measured speeds.
Out: warnings. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.schema import (
    Artifact,
    Environment,
    Interference,
    Isa,
    MachineWarning,
)

_OTHERS_CORES = 0.2  # above the resolution of the kernel's ticks and the load of an idle desktop
_OTHERS_SHARE = 0.02  # on many cores: the error of those ticks
_STEAL_SHARE = 0.01
_NEAR_CRITICAL_C = 10.0
_CRITICAL_C = 100.0  # if the sensor does not say; most processors throttle at 90 to 105
_SHORT_MEMORY_SHARE = 0.1
_SWAP_BYTES = 256e6


def judge(
    facts: Environment, *, threads: int, interference: Interference | None = None
) -> tuple[MachineWarning, ...]:
    """Return reasons not to measure with `threads` threads, or not to trust a measurement; the most
    serious first.

    An unknown fact gives no warning.
    """
    found = (
        _others(facts, interference),
        _steal(interference),
        _threads(facts, threads),
        _siblings(facts, threads),
        _quota(facts),
        _governor(facts),
        _battery(facts),
        _heat(facts),
        _memory(facts),
        _swap(facts),
        _turbo(facts),
    )
    return tuple(warning for warning in found if warning is not None)


def judge_artifacts(
    facts: Environment, artifacts: Sequence[Artifact]
) -> tuple[MachineWarning, ...]:
    """Return a warning about artifacts whose int8 arithmetic is not exact on this machine."""
    own = instruction_sets(facts)
    inexact = [
        f"{item.path} is exact on {', '.join(item.isas)}"
        for item in artifacts
        if item.isas is not None and not set(item.isas) & own
    ]
    if not inexact:
        return ()
    return (
        MachineWarning(
            code="isa",
            message="made for another processor; this one has "
            f"{', '.join(sorted(own)) or 'none of these instruction sets'}: "
            f"{'; '.join(dict.fromkeys(inexact))}",
            action="verify it on the processor that it was made for, or run `toolkit export` "
            "without `--isa`",
        ),
    )


def instruction_sets(facts: Environment) -> set[Isa]:
    """Return the instruction sets that int8 arithmetic depends on. x86 without VNNI adds 8-bit
    products in 16 bits."""
    if facts.machine in ("aarch64", "arm64"):
        return {"arm"}
    vnni = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(facts.isa)
    return {"vnni"} if vnni else ({"avx2"} if "avx2" in facts.isa else set())


def _others(facts: Environment, interference: Interference | None) -> MachineWarning | None:
    allowed = max(_OTHERS_CORES, _OTHERS_SHARE * facts.cores)
    if interference is None or interference.others_cores < allowed:
        return None
    return MachineWarning(
        code="others",
        message=f"other processes kept {interference.others_cores:.1f} of {facts.cores} cores busy",
        action="close them, or wait until they have finished, and measure again",
    )


def _steal(interference: Interference | None) -> MachineWarning | None:
    if interference is None or (interference.steal_share or 0.0) <= _STEAL_SHARE:
        return None
    return MachineWarning(
        code="steal",
        message=f"the hypervisor gave {interference.steal_share:.1%} of the time to other machines",
        action="measure longer with `toolkit bench --min-time 20`, or use a machine that is not "
        "shared",
    )


def _threads(facts: Environment, threads: int) -> MachineWarning | None:
    if threads <= facts.cores:
        return None
    return MachineWarning(
        code="threads",
        message=f"{threads} threads on {facts.cores} usable cores wait for each other",
        action=f"`--threads {facts.cores}`",
    )


def _siblings(facts: Environment, threads: int) -> MachineWarning | None:
    physical = facts.physical_cores
    if physical is None or not physical < threads <= facts.cores:
        return None
    return MachineWarning(
        code="siblings",
        message=f"{threads} threads on {physical} physical cores: SMT siblings share a core's "
        "arithmetic units",
        action=f"`--threads {physical}`",
    )


def _quota(facts: Environment) -> MachineWarning | None:
    quota = facts.cpu_quota
    if quota is None or quota == int(quota):
        return None
    whole = max(1, math.floor(quota))
    return MachineWarning(
        code="quota",
        message=f"the container may use {quota:g} cores: its {facts.cores} threads are stopped "
        "for a part of every period",
        action=f"`--threads {whole}`, or start the container with whole cores "
        f"(`docker run --cpus {math.ceil(quota)}`)",
    )


def _governor(facts: Environment) -> MachineWarning | None:
    if facts.governor in (None, "performance"):
        return None
    return MachineWarning(
        code="governor",
        message=f"the frequency governor is {facts.governor}: clocks rise only some time after "
        "the work starts",
        action="`sudo cpupower frequency-set -g performance`",
    )


def _battery(facts: Environment) -> MachineWarning | None:
    if not facts.on_battery:
        return None
    return MachineWarning(
        code="battery",
        message="the machine runs on battery, which lowers its clocks",
        action="plug it in",
    )


def _heat(facts: Environment) -> MachineWarning | None:
    critical_c = facts.critical_temperature_c or _CRITICAL_C
    if facts.temperature_c is None or facts.temperature_c < critical_c - _NEAR_CRITICAL_C:
        return None
    return MachineWarning(
        code="heat",
        message=f"the processor is at {facts.temperature_c:.0f} °C, and {critical_c:.0f} °C is "
        "critical: it lowers its clocks",
        action="let it cool down, or improve its cooling",
    )


def _memory(facts: Environment) -> MachineWarning | None:
    available = facts.available_memory_bytes
    if available is None or available >= _SHORT_MEMORY_SHARE * facts.memory_bytes:
        return None
    return MachineWarning(
        code="memory",
        message=f"only {available / 1e9:.1f} of {facts.memory_bytes / 1e9:.1f} GB of memory are "
        "available",
        action="close programs that use memory",
    )


def _swap(facts: Environment) -> MachineWarning | None:
    if (facts.swap_used_bytes or 0) < _SWAP_BYTES:
        return None
    return MachineWarning(
        code="swap",
        message=f"{(facts.swap_used_bytes or 0) / 1e9:.1f} GB are in swap; reading them back "
        "slows timed calls",
        action="close programs that use memory, then run `sudo swapoff -a && sudo swapon -a`",
    )


def _turbo(facts: Environment) -> MachineWarning | None:
    if not facts.turbo:
        return None
    return MachineWarning(
        code="turbo",
        message="turbo is on: clocks drop as the processor warms up, so times may drift",
        action="`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo` (Intel) or "
        "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost` (others); or accept wider "
        "intervals",
    )
