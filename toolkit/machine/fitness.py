"""Warnings about a machine or a measurement, each with the flag or action that helps.

In: an `Environment`, the number of threads, and the load from other processes; or measured speeds.
Out: warnings. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median

from toolkit.schema import (
    Artifact,
    Environment,
    Interference,
    Isa,
    MachineWarning,
    Measurement,
    Round,
)
from toolkit.statistics.difference import ERROR_RATE, holm, of_one
from toolkit.statistics.intervals import relative_half_width
from toolkit.statistics.speeds import repeat_shares

_OTHERS_CORES = 0.2  # above the resolution of the kernel's ticks and the load of an idle desktop
_OTHERS_SHARE = 0.02  # on many cores: the error of those ticks
_STEAL_SHARE = 0.01
_NEAR_CRITICAL_C = 10.0
_CRITICAL_C = 100.0  # if the sensor does not say; most processors throttle at 90 to 105
_SHORT_MEMORY_SHARE = 0.1
_SWAP_BYTES = 256e6
_WIDE = 0.05
PAGE_FAULTS = 256  # per call, a megabyte; kept memory has none, PyTorch has thousands
_LOW_CLOCK = 0.8
_FEW_ROUNDS = 0.1
_CACHED = 1.25  # a cache saves more; repeating one batch in the processor's caches may save a tenth


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


def judge_speeds(rows: Sequence[Measurement]) -> tuple[MachineWarning, ...]:
    """Return reasons not to trust measured speeds; one warning per kind."""
    real = [row for row in rows if row.runtime != "null" and row.status == "measured"]
    found = (
        *(_wide(real), _unsteady(real), _gpu_clock(real), _gpu_slowed(real)),
        *(_paged(real), _cached(real)),
    )
    return tuple(warning for warning in found if warning is not None)


def _wide(rows: Sequence[Measurement]) -> MachineWarning | None:
    wide = {
        row.name: relative_half_width(row.images_per_s)
        for row in rows
        if row.images_per_s is not None and relative_half_width(row.images_per_s) > _WIDE
    }
    if not wide:
        return None
    names = ", ".join(f"{name} ± {share:.0%}" for name, share in wide.items())
    return MachineWarning(
        code="wide",
        message=f"intervals are wide: {names}",
        action="measure longer with `toolkit bench --target-width 2%`, and close other programs",
    )


def _paged(rows: Sequence[Measurement]) -> MachineWarning | None:
    paged = {
        row.name: row.page_faults
        for row in rows
        if (row.page_faults or 0) > PAGE_FAULTS and not row.settings.keep_memory
    }
    if not paged:
        return None
    names = ", ".join(f"{name} {count:,.0f}" for name, count in paged.items())
    return MachineWarning(
        code="page_faults",
        message=f"memory is returned to the system after each call; page faults per call: {names}",
        action="use `toolkit bench --keep-memory` to measure without this cost "
        "(docs/benchmarking.md explains how to deploy that way)",
    )


def _unsteady(rows: Sequence[Measurement]) -> MachineWarning | None:
    names = []
    for row in rows:
        known = [one.warm_up.steady for one in row.passes if one.warm_up is not None]
        if known.count(False) > len(known) / 2:
            names.append(row.name)
    if not names:
        return None
    return MachineWarning(
        code="unsteady",
        message=f"speed was not steady at the end of the warm-up: {', '.join(names)}",
        action="close other programs; measure longer with `toolkit bench --min-time 20`",
    )


def _gpu_clock(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Return rows with many rounds that began while the GPU clock was low."""
    low = {}
    for row in rows:
        clocks = [_clocks(each) for one in row.passes for each in one.rounds if each.gpu]
        known = [(before, within) for before, within in clocks if before and within]
        usual = median(within for _, within in known) if known else 0.0
        slow = [before for before, _ in known if before < _LOW_CLOCK * usual]
        if len(slow) > _FEW_ROUNDS * len(known):
            low[row.name] = (
                f"{len(slow)} of {len(known)} rounds, from {min(slow) / 1e9:.2f} of "
                f"{usual / 1e9:.2f} GHz"
            )
    if not low:
        return None
    return MachineWarning(
        code="gpu_clock",
        message="the clock of the GPU was low when rounds began: "
        + ", ".join(f"{name} {text}" for name, text in low.items()),
        action="`sudo nvidia-smi --lock-gpu-clocks=<MHz>`, and"
        " `sudo nvidia-smi --reset-gpu-clocks` afterwards",
    )


def _clocks(found: Round) -> tuple[float | None, float | None]:
    """Return the clock before the round, and the highest clock in it or just after it."""
    before, *rest = found.gpu
    return before.clock_hz, max((each.clock_hz for each in rest if each.clock_hz), default=None)


def _gpu_slowed(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Return rows whose rounds ran while the GPU was slowed down, with the reasons."""
    slowed = {}
    for row in rows:
        rounds = [each for one in row.passes for each in one.rounds if each.gpu]
        reasons = [
            {reason for state in each.gpu[1:] for reason in state.slowed_by or ()}
            for each in rounds
        ]
        count = sum(map(bool, reasons))
        if count > _FEW_ROUNDS * len(rounds):
            words = ", ".join(sorted(set().union(*reasons)))
            slowed[row.name] = f"{count} of {len(rounds)} rounds ({words})"
    if not slowed:
        return None
    return MachineWarning(
        code="gpu_slowed",
        message="the GPU was slowed down in the rounds: "
        + ", ".join(f"{name} {text}" for name, text in slowed.items()),
        action="heat: improve its cooling; power limit: raise it (`sudo nvidia-smi "
        "--power-limit=<W>`), or take the speeds as those of this limit",
    )


def _cached(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Find rows that are shown to be faster on a repeated input; one error rate for all rows."""
    known = {row.name: shares for row in rows if len(shares := repeat_shares(row.passes)) > 1}
    p_values = holm([of_one(shares).p_less(1 / _CACHED) for shares in known.values()])
    found = {
        name: 1 / mean(shares)
        for (name, shares), p_value in zip(known.items(), p_values, strict=True)
        if p_value <= ERROR_RATE
    }
    if not found:
        return None
    names = ", ".join(f"{name} {ratio:.2f} times" for name, ratio in found.items())
    return MachineWarning(
        code="cached",
        message=f"a repeated input is answered faster than rotating inputs: {names}; answers "
        "may come from a cache",
        action="switch off the runtime's cache: the measured speed does not apply to new images",
    )


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
