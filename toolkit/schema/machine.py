"""Records of the machine: facts, load from other processes, limits, warnings."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.shown import Shown


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """One GPU at one moment, as NVML describes it; unknown values are None.

    `slowed_by` has the reasons why its clock is lower than possible: `power limit`, `heat` ... It
    does not include that the GPU idles, or that a user set its clock.
    """

    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    slowed_by: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, as its driver describes it; `utilization` is a recent fraction.

    `state` has further values from NVML; None without the package nvidia-ml-py.
    """

    name: str
    driver: str
    clock_hz: float | None
    max_clock_hz: float | None
    temperature_c: float | None
    utilization: float | None
    persistence_mode: bool | None
    state: GpuState | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the versions; values that cannot be read are None.

    `cores` counts the cores that this process may use, `physical_cores` the same with SMT siblings
    counted once, `logical_cores` all cores of the machine, `cpu_quota` is a container's limit in
    cores. `confinement` says how the system can confine workers and converters.
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
    confinement: str | None = None
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
class GpuLimits:
    """The highest rates that were measured on the GPU `name` at a steady clock.

    Matrix products: `float32` with whole factors; `tf32`, `bfloat16` and `float16` on tensor cores,
    with sums in float32. None if the GPU has no such product. A byte that is copied within the GPU
    counts twice, as read and as written. A byte that comes from pinned or pageable memory of the
    host counts once.
    """

    name: str
    float32_flops_per_s: float
    tf32_flops_per_s: float | None
    bfloat16_flops_per_s: float | None
    float16_flops_per_s: float | None
    copy_bytes_per_s: float
    pinned_bytes_per_s: float
    pageable_bytes_per_s: float

    def flops_per_s(self, arithmetic: str) -> float | None:
        """Return the limit of products in `arithmetic`, as a session attests it (`float32`,
        `float32 (Winograd)`, `TF32` ...); None if it has none."""
        word = arithmetic.split()[0].lower() if arithmetic else ""
        return {
            "float32": self.float32_flops_per_s,
            "tf32": self.tf32_flops_per_s,
            "bfloat16": self.bfloat16_flops_per_s,
            "float16": self.float16_flops_per_s,
        }.get(word)

    def or_higher(self, other: GpuLimits) -> GpuLimits:
        """Return the higher of each rate."""
        return GpuLimits(
            name=self.name,
            float32_flops_per_s=max(self.float32_flops_per_s, other.float32_flops_per_s),
            tf32_flops_per_s=_higher(self.tf32_flops_per_s, other.tf32_flops_per_s),
            bfloat16_flops_per_s=_higher(self.bfloat16_flops_per_s, other.bfloat16_flops_per_s),
            float16_flops_per_s=_higher(self.float16_flops_per_s, other.float16_flops_per_s),
            copy_bytes_per_s=max(self.copy_bytes_per_s, other.copy_bytes_per_s),
            pinned_bytes_per_s=max(self.pinned_bytes_per_s, other.pinned_bytes_per_s),
            pageable_bytes_per_s=max(self.pageable_bytes_per_s, other.pageable_bytes_per_s),
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The highest rates that were measured on this machine with `threads` threads.

    A multiplication and the addition after it count as two operations. A copied byte counts twice,
    as read and as written. `gpu` has the limits of the GPU if it was measured too.
    """

    threads: int
    float32_flops_per_s: float
    int8_ops_per_s: float | None
    copy_bytes_per_s: float
    gpu: GpuLimits | None = None

    def or_higher(self, other: Limits) -> Limits:
        """Return the higher of each rate, both with the same threads."""
        known = [each.gpu for each in (self, other) if each.gpu is not None]
        return Limits(
            threads=self.threads,
            float32_flops_per_s=max(self.float32_flops_per_s, other.float32_flops_per_s),
            int8_ops_per_s=_higher(self.int8_ops_per_s, other.int8_ops_per_s),
            copy_bytes_per_s=max(self.copy_bytes_per_s, other.copy_bytes_per_s),
            gpu=known[0].or_higher(known[-1]) if known else None,
        )


def _higher(first: float | None, second: float | None) -> float | None:
    """Return the higher of the known rates; None if both are unknown."""
    return max((rate for rate in (first, second) if rate is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class MachineWarning:
    """A reason why the machine is not fit for benchmarks, and what helps."""

    code: str
    message: str
    action: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Shown):
    """The result of `toolkit doctor`. Without `limits`, `failure` says why they were not
    measured."""

    environment: Environment
    interference: Interference
    limits: Limits | None
    failure: str | None
    warnings: tuple[MachineWarning, ...]
