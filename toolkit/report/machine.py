"""The machine as text: facts, limits, warnings.

In: an `Environment` or a `Diagnosis`. Out: text.
"""

from __future__ import annotations

import textwrap

from toolkit.report.labels import count_of
from toolkit.schema import Diagnosis, Environment, Gpu, GpuLimits, GpuState, Interference, Limits

_WIDTH = 100
_INDENT = 13
_ISA_NAMES = {
    "avx512f": "AVX-512",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "asimdhp": "NEON FP16",
}
_SWITCH = {True: "on", False: "off", None: "unknown"}


def machine_facts(facts: Environment) -> dict[str, str]:
    """Return the facts for the header of a result: label → text."""
    names = [_isa_name(flag) for flag in facts.isa]
    load = facts.load_average
    return {
        "processor": f"{facts.cpu}, {facts.machine}",
        "vectors": ", ".join(names) or "unknown",
        "cores": _cores(facts),
        "clock": f"{_clock(facts.frequency_hz, facts.max_frequency_hz)}; governor "
        f"{facts.governor or 'unknown'}; turbo {_SWITCH[facts.turbo]}",
        "load": "unknown" if load is None else f"{load:.2f} (mean of the last minute)",
        "temperature": _heat(facts.temperature_c, facts.critical_temperature_c),
        "battery": {True: "in use", False: "plugged in", None: "none"}[facts.on_battery],
        "memory": f"{_gigabytes(facts.available_memory_bytes)} of "
        f"{_gigabytes(facts.memory_bytes)} GB available, "
        f"{_gigabytes(facts.swap_used_bytes)} GB in swap",
        "GPU": "; ".join(_gpu(gpu) for gpu in facts.gpus) or "none",
        "system": f"{facts.platform}, Python {facts.python}",
        "confinement": facts.confinement or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }


def render_diagnosis(found: Diagnosis) -> str:
    """Return the output of `toolkit doctor`."""
    facts = machine_facts(found.environment)
    facts["load"] += f"; {_interference(found.interference)}"
    limits = _limits(found.limits) if found.limits else {}
    if found.failure is not None:
        limits["not measured"] = found.failure
    threads = f" with {count_of(found.limits.threads, 'thread')}" if found.limits else ""
    lines = [_entry(label, text) for label, text in facts.items()]
    lines += ["", f"Limits{threads}", *(_entry(label, text) for label, text in limits.items())]
    if not found.warnings:
        return "\n".join([*lines, "", "No problem found: this machine is fit for benchmarks."])
    lines += ["", f"Warnings: {len(found.warnings)}"]
    for warning in found.warnings:
        lines += [_entry(warning.code, warning.message), _entry("", f"→ {warning.action}")]
    return "\n".join(lines)


def _entry(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{label:<{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _isa_name(flag: str) -> str:
    return _ISA_NAMES.get(flag) or flag.upper().replace("AVX512", "AVX-512").replace("_", " ")


def _cores(facts: Environment) -> str:
    quota = "no quota" if facts.cpu_quota is None else f"quota {facts.cpu_quota:g}"
    physical = facts.physical_cores
    if physical is None:
        siblings = "SMT unknown"
    else:
        siblings = f"{physical} physical" + ("" if physical < facts.cores else ", no SMT siblings")
    return f"{facts.cores} usable of {facts.logical_cores or 'unknown'}; {siblings}; {quota}"


def _clock(now_hz: float | None, most_hz: float | None) -> str:
    now = "unknown" if now_hz is None else f"{now_hz / 1e9:.2f} GHz"
    return now if most_hz is None else f"{now} of {most_hz / 1e9:.2f} GHz"


def _heat(now_c: float | None, critical_c: float | None) -> str:
    now = "unknown" if now_c is None else f"{now_c:.0f} °C"
    return now if critical_c is None else f"{now}, critical at {critical_c:.0f} °C"


def _gigabytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e9:.1f}"


def _gpu(gpu: Gpu) -> str:
    used = "unknown" if gpu.utilization is None else f"{gpu.utilization:.0%}"
    return (
        f"{gpu.name}, driver {gpu.driver}, {_clock(gpu.clock_hz, gpu.max_clock_hz)}, "
        f"{_heat(gpu.temperature_c, None)}, {used} in use, persistence mode "
        f"{_SWITCH[gpu.persistence_mode]}, {_gpu_state(gpu.state)}"
    )


def _gpu_state(state: GpuState | None) -> str:
    """Return the values that NVML adds to those of `nvidia-smi`."""
    if state is None:
        return "power unknown: install nvidia-ml-py (`pip install 'toolkit[cuda]'`)"
    power = "unknown" if state.power_w is None else f"{state.power_w:.0f} W"
    limit = "" if state.power_limit_w is None else f" of {state.power_limit_w:.0f} W"
    slowed = "unknown" if state.slowed_by is None else ", ".join(state.slowed_by) or "nothing"
    return f"power {power}{limit}, slowed down by {slowed}"


def _interference(found: Interference) -> str:
    steal = "unknown" if found.steal_share is None else f"{found.steal_share:.1%}"
    return f"other processes use {found.others_cores:.2f} cores now, steal {steal}"


def _limits(limits: Limits) -> dict[str, str]:
    int8 = limits.int8_ops_per_s
    return {
        "float32": f"{limits.float32_flops_per_s / 1e9:,.0f} GFLOP/s (matrix product)",
        "int8": "unknown" if int8 is None else f"{int8 / 1e9:,.0f} GOP/s (matrix product)",
        "copy": f"{limits.copy_bytes_per_s / 1e9:,.1f} GB/s (read and written)",
        **(_gpu_limits(limits.gpu) if limits.gpu else {}),
    }


def _gpu_limits(limits: GpuLimits) -> dict[str, str]:
    products = {
        "float32": limits.float32_flops_per_s,
        "TF32": limits.tf32_flops_per_s,
        "bfloat16": limits.bfloat16_flops_per_s,
        "float16": limits.float16_flops_per_s,
    }
    known = [
        f"{name} {'none' if rate is None else f'{rate / 1e12:,.1f}'}"
        for name, rate in products.items()
    ]
    return {
        "GPU": limits.name,
        "  products": f"{', '.join(known)} TFLOP/s (matrix product)",
        "  copy": f"{limits.copy_bytes_per_s / 1e9:,.0f} GB/s (read and written)",
        "  from host": f"{limits.pinned_bytes_per_s / 1e9:,.1f} GB/s out of pinned memory, "
        f"{limits.pageable_bytes_per_s / 1e9:,.1f} GB/s out of pageable",
    }
