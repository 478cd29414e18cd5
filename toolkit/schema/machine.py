"""Records of the machine: facts, load from other processes, limits, warnings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, as its driver describes it; `utilization` is a recent fraction."""

    name: str
    driver: str
    clock_hz: float | None
    max_clock_hz: float | None
    temperature_c: float | None
    utilization: float | None
    persistence_mode: bool | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the versions; values that cannot be read are None.

    `cores` counts the cores that this process may use, `physical_cores` the same with SMT siblings
    counted once, `logical_cores` all cores of the machine, `cpu_quota` is a container's limit in
    cores.
    """

    time: str
    platform: str
    machine: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    physical_cores: int | None = None
    logical_cores: int | None = None
    cpu_quota: float | None = None
    governor: str | None = None
    turbo: bool | None = None
    frequency_hz: float | None = None
    max_frequency_hz: float | None = None
    temperature_c: float | None = None
    critical_temperature_c: float | None = None
    on_battery: bool | None = None
    memory_bytes: int
    available_memory_bytes: int | None = None
    swap_used_bytes: int | None = None
    load_average: float | None
    gpus: tuple[Gpu, ...] = ()
    python: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Interference:
    """The share of the usable cores that others used during `wall_s` seconds.

    `others_cores` is the mean number of cores that other processes kept busy; `steal_share` is the
    fraction of the time that the hypervisor gave to other machines.
    """

    wall_s: float
    others_cores: float
    steal_share: float | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The highest rates that were measured on this machine with `threads` threads.

    A multiplication and the addition after it count as two operations. A copied byte counts twice,
    as read and as written.
    """

    threads: int
    float32_flops_per_s: float
    int8_ops_per_s: float | None
    copy_bytes_per_s: float

    def or_higher(self, other: Limits) -> Limits:
        """Return the higher of each rate, both with the same threads."""
        int8 = [rate for rate in (self.int8_ops_per_s, other.int8_ops_per_s) if rate is not None]
        return Limits(
            threads=self.threads,
            float32_flops_per_s=max(self.float32_flops_per_s, other.float32_flops_per_s),
            int8_ops_per_s=max(int8, default=None),
            copy_bytes_per_s=max(self.copy_bytes_per_s, other.copy_bytes_per_s),
        )


@dataclass(frozen=True, kw_only=True)
class MachineWarning:
    """A reason why the machine is not fit for benchmarks, and what helps."""

    code: str
    message: str
    action: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of `toolkit doctor`. Without `limits`, `failure` says why they were not
    measured."""

    environment: Environment
    interference: Interference
    limits: Limits | None
    failure: str | None
    warnings: tuple[MachineWarning, ...]
