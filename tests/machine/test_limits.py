"""Limits are rates of operations that really ran; FLOPs match the formula."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.machine import limits
from toolkit.machine.limits import count_flops
from toolkit.schema import Limits, from_json

MEASURE = """
import json, sys
from toolkit.machine.limits import measure_limits
from toolkit.schema import to_json
{before}
print(json.dumps(to_json(measure_limits(1, time_s=0.08))))
"""


def measured(before: str = "") -> Limits:
    """Measure in a separate process, so that torch's threads do not change in this one."""
    code = MEASURE.format(before=before)
    answer = subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True)
    return from_json(Limits, json.loads(answer))


def test_limits_of_this_machine_are_plausible() -> None:
    found = measured()
    assert found.threads == 1
    assert 1e8 < found.float32_flops_per_s < 1e12  # one core reaches 2e11 today
    assert found.int8_ops_per_s is not None
    assert 1e8 < found.int8_ops_per_s < 1e13
    assert 1e8 < found.copy_bytes_per_s < 1e12


def test_missing_int8_product_leaves_only_that_limit_unknown() -> None:
    found = measured(
        "import torch\n"
        "def refuse(*operands): raise RuntimeError('_int_mm: not on this processor')\n"
        "torch._int_mm = refuse\n"
        "sys.modules['onnxruntime'] = None"
    )
    assert found.int8_ops_per_s is None
    assert found.float32_flops_per_s > 1e8


class Work:
    """Calls that take exactly the given time on a fake clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr("toolkit.timing.time.perf_counter_ns", lambda: self.now_ns)

    def take(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


def test_rate_counts_two_operations_per_multiplication_in_the_fastest_call(work: Work) -> None:
    waits = iter([0.0, 0.2, 0.02] + [0.2] * 1000)

    def product(size: int, threads: int) -> limits.Run | None:
        return (lambda: work.take(next(waits))) if size == 256 else None

    (rate,) = limits.rates(product, 1, time_s=4.0)
    assert rate == pytest.approx(2 * 256**3 / 0.02)


def test_large_products_are_left_out_on_a_slow_machine(work: Work) -> None:
    sizes = []

    def product(size: int, threads: int) -> limits.Run:
        sizes.append(size)
        return lambda: work.take(0.004 * (size / 256) ** 3)

    rates = list(limits.rates(product, 1, time_s=0.4))  # 0.05 s per size; 1024 would take 0.26 s
    assert sizes == [256, 512]
    assert len(rates) == 2


def test_fastest_call_is_found_even_if_one_call_exceeds_the_time(work: Work) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        work.take(0.01)

    assert limits.fastest_s(call, 0.0) == 0.01
    assert calls == 2


@pytest.mark.parametrize(("cache_bytes", "copied"), [(None, 4_000_000), (2_000_000, 8_000_000)])
def test_copied_bytes_count_twice_and_arrays_exceed_the_caches(
    monkeypatch: pytest.MonkeyPatch, cache_bytes: int | None, copied: int
) -> None:
    monkeypatch.setattr(limits, "_COPY_BYTES", 4_000_000)
    monkeypatch.setattr(limits, "last_level_cache_bytes", lambda: cache_bytes)
    monkeypatch.setattr(limits, "fastest_s", lambda run, time_s: 1.0)
    assert limits._copy_rate(1.0) == 2 * copied


@pytest.mark.parametrize("training", [True, False])
def test_flops_of_the_reference_cnn(training: bool) -> None:
    model = ReferenceCNN().train(training)
    conv1, conv2 = 26 * 26 * 32 * (1 * 9), 24 * 24 * 64 * (32 * 9)
    fc1, fc2 = 9216 * 128, 128 * 10
    assert count_flops(model, (1, 28, 28)) == 2 * (conv1 + conv2 + fc1 + fc2) == 23_984_896
    assert model.training is training


def test_flops_are_counted_in_eval_mode_at_batch_1() -> None:
    """Batch normalisation refuses one value per channel in training mode."""
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Flatten())
    assert count_flops(model, (3, 1, 1)) == 2 * 3 * 4
    assert model.training
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))  # nothing was learned


def test_limits_use_the_requested_threads() -> None:
    code = (
        "import torch; from toolkit.machine.limits import measure_limits;"
        "print(measure_limits(3, time_s=0.01).threads, torch.get_num_threads())"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert answer.split() == ["3", "3"]
