"""The limits of the CUDA device, measured with matrix products and copies.

In: the time for each measurement. Out: `GpuLimits`. Measure in a separate process, because this
changes torch's flags for reduced precision. An idle GPU runs at a fifth of its clock, so it is kept
busy until the clock is steady.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from toolkit.machine.limits import Run, fastest_s, rates
from toolkit.schema import GpuLimits
from toolkit.statistics.samples import steady
from toolkit.timing import Stopwatch, time_calls

_SIZES = (2048, 4096, 8192)  # smaller products take as long to start as tensor cores need for them
_WARM_UP_SIZE = 4096
_WARM_UP_STEP_S = 0.02
_WARM_UP_LIMIT_S = 2.0
_COPY_BYTES = 1 << 30  # 20 times the largest cache of current GPUs
_HOST_BYTES = 128 << 20
_MEMORY_SHARE = 8  # but never more than this part of the free memory
_ALL_ON_TENSOR_CORES = (8, 0)  # compute capability; earlier tensor cores only have float16

Factor = Literal["float32", "tf32", "bfloat16", "float16"]


def measure_gpu_limits(*, time_s: float = 0.5) -> GpuLimits | None:
    """Measure the highest rates of the current CUDA device; each takes about `time_s` seconds.
    Return None if torch finds no device."""
    import torch

    if not torch.cuda.is_available():
        return None
    all_kinds = torch.cuda.get_device_capability() >= _ALL_ON_TENSOR_CORES
    busy = _product(_WARM_UP_SIZE, "float32")
    if busy is not None:
        warm_up(busy)
    return GpuLimits(
        name=torch.cuda.get_device_name(),
        float32_flops_per_s=_highest("float32", time_s) or 0.0,
        tf32_flops_per_s=_highest("tf32", time_s) if all_kinds else None,
        bfloat16_flops_per_s=_highest("bfloat16", time_s) if all_kinds else None,
        float16_flops_per_s=_highest("float16", time_s),
        copy_bytes_per_s=_copy_rate(time_s),
        pinned_bytes_per_s=_host_rate(time_s, pinned=True),
        pageable_bytes_per_s=_host_rate(time_s, pinned=False),
    )


def warm_up(run: Run) -> bool:
    """Run until the speed is steady, for at most two seconds; return whether it was steady.

    A step consists of several calls, so that short calls do not end the warm-up before the clock
    has risen.
    """
    watch, times_s = Stopwatch(), list[float]()
    while watch.elapsed_s() < _WARM_UP_LIMIT_S and not steady(times_s):
        step, calls = Stopwatch(), list[int]()
        while step.elapsed_s() < _WARM_UP_STEP_S:
            calls += _timed_ns(run)
        times_s.append(sum(calls) / len(calls) / 1e9)
    return steady(times_s)


def _highest(factor: Factor, time_s: float) -> float | None:
    """Return FLOP/s of the fastest product with these factors; None if there is none."""
    found = rates(lambda size, _: _product(size, factor), 0, time_s, sizes=_SIZES)
    return max(found, default=None)


def _product(size: int, factor: Factor) -> Run | None:
    """Return a call that multiplies two square matrices and waits for the result; None if the GPU
    has too little memory. Sums are always float32."""
    import torch

    torch.set_float32_matmul_precision("high" if factor == "tf32" else "highest")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    dtype = torch.float32 if factor == "tf32" else getattr(torch, factor)
    try:
        left, right, out = (torch.rand(size, size, device="cuda").to(dtype) for _ in range(3))
    except torch.OutOfMemoryError:
        return None
    return _synchronised(lambda: torch.mm(left, right, out=out))


def _copy_rate(time_s: float) -> float:
    """Return bytes read and written per second, from copying within the GPU's memory."""
    import torch

    source = torch.zeros(_fitting(_COPY_BYTES), dtype=torch.uint8, device="cuda")
    target = torch.zeros_like(source)
    return 2 * len(source) / fastest_s(_synchronised(lambda: target.copy_(source)), time_s)


def _host_rate(time_s: float, *, pinned: bool) -> float:
    """Return bytes copied per second from the host's memory to the GPU's."""
    import torch

    target = torch.zeros(_fitting(_HOST_BYTES), dtype=torch.uint8, device="cuda")
    source = torch.ones(len(target), dtype=torch.uint8, pin_memory=pinned)
    copy = _synchronised(lambda: target.copy_(source, non_blocking=pinned))
    return len(target) / fastest_s(copy, time_s)


def _fitting(wanted_bytes: int) -> int:
    import torch

    free_bytes, _ = torch.cuda.mem_get_info()
    return min(wanted_bytes, free_bytes // _MEMORY_SHARE)


def _synchronised(start: Callable[[], object]) -> Run:
    """Return a call that starts the work and waits for the device."""
    import torch

    def run() -> None:
        start()
        torch.cuda.synchronize()

    return run


def _timed_ns(run: Run) -> list[int]:
    return time_calls(lambda _: run(), (None,), calls=1)[0]
