"""GPU limits: warm-up until steady, the higher of two measurements, and none without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from toolkit.machine import gpu_limits
from toolkit.machine.gpu_limits import measure_gpu_limits, warm_up
from toolkit.schema import GpuLimits, Limits, from_json, to_json

GPU = GpuLimits(
    name="a GPU",
    float32_flops_per_s=5e13,
    tf32_flops_per_s=None,
    bfloat16_flops_per_s=7e14,
    float16_flops_per_s=6e14,
    copy_bytes_per_s=1e12,
    pinned_bytes_per_s=5e10,
    pageable_bytes_per_s=1e10,
)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that advances a fake clock by the given seconds."""
    now_ns = [0]
    monkeypatch.setattr("toolkit.timing.time.perf_counter_ns", lambda: now_ns[0])

    def take(seconds: float) -> None:
        now_ns[0] += round(seconds * 1e9)

    return take


def test_missing_device_gives_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure_gpu_limits() is None


def test_gpu_is_warmed_up_until_its_speed_is_steady(work: Callable[[float], None]) -> None:
    """The time per call falls to a sixth as the clock rises."""
    calls: list[float] = []

    def run() -> None:
        calls.append(max(0.003, 0.018 * 0.9 ** len(calls)))
        work(calls[-1])

    assert warm_up(run)
    assert calls[-1] == 0.003
    assert sum(calls) < gpu_limits._WARM_UP_LIMIT_S


def test_warm_up_of_an_unsteady_gpu_is_limited(
    work: Callable[[float], None],
) -> None:
    calls: list[float] = []

    def run() -> None:
        calls.append(0.03 * 1.1 ** len(calls))
        work(calls[-1])

    assert not warm_up(run)
    assert sum(calls) < 1.2 * gpu_limits._WARM_UP_LIMIT_S


def test_higher_rate_of_two_measurements_is_kept() -> None:
    other = replace(GPU, float32_flops_per_s=4e13, tf32_flops_per_s=3e14, copy_bytes_per_s=2e12)
    found = GPU.or_higher(other)
    assert found.float32_flops_per_s == 5e13
    assert found.tf32_flops_per_s == 3e14
    assert found.copy_bytes_per_s == 2e12
    one = Limits(threads=1, float32_flops_per_s=1e11, int8_ops_per_s=None, copy_bytes_per_s=1e10)
    assert one.or_higher(one).gpu is None
    assert one.or_higher(replace(one, gpu=GPU)).gpu == GPU
    assert replace(one, gpu=GPU).or_higher(replace(one, gpu=other)).gpu == found
    assert from_json(Limits, to_json(replace(one, gpu=GPU))).gpu == GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_limits_of_this_gpu_are_plausible() -> None:
    found = measure_gpu_limits(time_s=0.1)
    assert found is not None
    assert 1e11 < found.float32_flops_per_s < 1e15
    assert 1e9 < found.pageable_bytes_per_s < found.copy_bytes_per_s
    assert found.float32_flops_per_s < (found.float16_flops_per_s or 0)
