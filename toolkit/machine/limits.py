"""The limits of this machine, measured with matrix products and copies; a model's FLOPs, counted.

In: a number of threads, or a model. Out: `Limits`, or FLOPs per image. Measure in a separate
process: torch and ONNX Runtime are both loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.machine.environment import last_level_cache_bytes
from toolkit.schema import Limits
from toolkit.timing import Stopwatch, time_calls

if TYPE_CHECKING:
    from torch import nn

_SIZES = (256, 512, 1024, 2048)  # small ones stay in the caches, many cores need large ones
_COPY_BYTES = 256 << 20
_CACHE_FACTOR = 4  # STREAM's rule: arrays of at least four times the last-level cache
_COPY_MEMORY_SHARE = 8  # but never more than this part of the free memory

Run = Callable[[], object]
Product = Callable[[int, int], Run | None]


def measure_limits(threads: int, *, time_s: float = 0.5) -> Limits:
    """Measure the highest rates with `threads` threads; each takes about `time_s` seconds.

    Matrix products are tried in torch and in ONNX Runtime, at several sizes. The fastest single
    call counts: a limit is what the machine reaches without any disturbance.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # use true float32
    float32 = [*rates(_torch_float32, threads, time_s), *rates(_onnx_float32, threads, time_s)]
    int8 = [*rates(_torch_int8, threads, time_s), *rates(_onnx_int8, threads, time_s)]
    return Limits(
        threads=threads,
        float32_flops_per_s=max(float32),
        int8_ops_per_s=max(int8, default=None),
        copy_bytes_per_s=_copy_rate(time_s),
    )


def count_flops(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the FLOPs of one image `[C,H,W]` in eval mode: two for each multiplication and its
    addition.

    As in torch's own counter, products and convolutions count; everything else is negligible.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *input_shape))
    finally:
        model.train(training)
    return int(counter.get_total_flops())


def rates(
    product: Product, threads: int, time_s: float, *, sizes: Sequence[int] = _SIZES
) -> Iterator[float]:
    """Return operations per second at each size, in half of `time_s`. A library without such a
    product gives none, and a slow machine gives none for sizes whose single call would take too
    long."""
    share_s = time_s / 2 / len(sizes)
    rate = float("inf")
    for size in sizes:
        operations = 2 * size**3
        run = product(size, threads) if operations / rate < share_s else None
        if run is None:
            return
        rate = operations / fastest_s(run, share_s)
        yield rate


def _copy_rate(time_s: float) -> float:
    """Return bytes read and written per second, from copying arrays that no cache holds, as STREAM
    counts."""
    import psutil
    import torch

    wanted = max(_COPY_BYTES, _CACHE_FACTOR * (last_level_cache_bytes() or 0))
    values = min(wanted, psutil.virtual_memory().available // _COPY_MEMORY_SHARE) // 4
    source, target = torch.full((values,), 1.0), torch.full((values,), 0.0)  # touches every page
    return 2 * 4 * values / fastest_s(lambda: target.copy_(source), time_s)


def fastest_s(run: Run, time_s: float) -> float:
    """Return the time of the fastest call within `time_s` seconds, at least one; the first is
    untimed."""
    run()
    samples_ns: list[int] = []
    watch = Stopwatch()
    while not samples_ns or watch.elapsed_s() < time_s:
        samples_ns += time_calls(lambda _: run(), (None,), calls=1)[0]
    return max(min(samples_ns), 1) / 1e9


def _torch_float32(size: int, threads: int) -> Run:
    import torch

    left, right, out = (torch.rand(size, size) for _ in range(3))
    return lambda: torch.mm(left, right, out=out)


def _torch_int8(size: int, threads: int) -> Run | None:
    import torch

    left, right = (torch.randint(-128, 128, (size, size), dtype=torch.int8) for _ in range(2))
    try:
        torch._int_mm(left, right)
    except RuntimeError:  # torch supports it on some processors only
        return None
    return lambda: torch._int_mm(left, right)


def _onnx_float32(size: int, threads: int) -> Run | None:
    random = np.random.default_rng(0)
    left, right = (random.random((size, size), np.float32) for _ in range(2))
    return _onnx_product("MatMul", left, right, np.dtype(np.float32), threads)


def _onnx_int8(size: int, threads: int) -> Run | None:
    """Use unsigned activations and signed weights, as in quantised models."""
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (size, size), np.uint8)
    right = random.integers(-128, 128, (size, size), np.int8)
    return _onnx_product("MatMulInteger", left, right, np.dtype(np.int32), threads)


def _onnx_product(
    operator: str,
    left: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    right: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    output: np.dtype[np.generic],
    threads: int,
) -> Run | None:
    """Return a model of one product whose right side is a weight."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in the row of onnxruntime
    try:
        import onnxruntime
        from onnx import helper, numpy_helper
    except ImportError:
        return None
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["out"])],
        operator,
        [helper.make_tensor_value_info("left", kind(left.dtype), left.shape)],
        [helper.make_tensor_value_info("out", kind(output), left.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})
