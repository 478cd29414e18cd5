"""One call of a torch model, host memory to host memory: on the CPU, on a GPU, as a CUDA graph.

In: a model. Out: a function from float32 `[N,C,H,W]` to logits `[N,K]`, to be called in
`torch.inference_mode`. The model gets a copy of the input, also on the CPU: it may work in place,
and the input is the caller's. The logits are an array of their own, which no later call changes.

Host memory that a GPU copies from or to is pinned: the driver then copies without the processor,
beside what starts the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Call = Callable[[NDArray[np.float32]], NDArray[np.floating]]
Model = Callable[[Tensor], Tensor]

_KEPT_SHAPES = 4  # of inputs; each has buffers, and as a graph its own memory on the GPU
_CALLS_BEFORE_RECORDING = 3  # libraries allocate in their first calls; a graph must not


def direct_call(model: Model, dtype: torch.dtype) -> Call:
    """A call on the CPU; `dtype` is that of the parameters."""

    def call(inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        batch = torch.from_numpy(inputs).to(dtype, copy=True)
        logits: NDArray[np.floating] = _widened(model(batch), dtype).numpy()
        return logits

    return call


def staged_call(model: Model, dtype: torch.dtype) -> Call:
    """A call on the GPU, its input copied there from pinned memory."""
    pinned = lru_cache(maxsize=_KEPT_SHAPES)(_pinned)

    def call(inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        staged = pinned(inputs.shape, torch.float32)
        np.copyto(staged.array, inputs)
        batch = staged.tensor.to("cuda", non_blocking=True).to(dtype)
        # The copy back waits for all before it, so the pinned memory is free again.
        logits: NDArray[np.floating] = _widened(model(batch), dtype).cpu().numpy()
        return logits

    return call


def graph_call(model: Model, dtype: torch.dtype) -> Call:
    """A call on the GPU as one CUDA graph, the copies to and from it included.

    The first call of each shape records; the graphs of the shapes that came last are kept.
    """
    recorded = lru_cache(maxsize=_KEPT_SHAPES)(lambda shape: _record(model, dtype, shape))

    def call(inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        graph = recorded(inputs.shape)
        np.copyto(graph.inputs.array, inputs)
        graph.replay()
        graph.wait()
        return graph.logits.array.copy()

    return call


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pinned:
    """Pinned host memory as a tensor, and the same memory as an array."""

    tensor: Tensor
    array: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    """What was recorded: from `inputs` to `logits`, between `replay` and the end of `wait`."""

    inputs: _Pinned
    logits: _Pinned
    replay: Callable[[], None]
    wait: Callable[[], None]


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> _Pinned:
    tensor = torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
    return _Pinned(tensor=tensor, array=tensor.numpy())


def _record(model: Model, dtype: torch.dtype, shape: tuple[int, ...]) -> _Graph:
    inputs = _pinned(shape, torch.float32)
    inputs.array[...] = 0
    batch = torch.empty(shape, dtype=torch.float32, device="cuda")

    def compute() -> Tensor:
        batch.copy_(inputs.tensor, non_blocking=True)
        return _widened(model(batch.to(dtype)), dtype)

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_CALLS_BEFORE_RECORDING):
            found = compute()
    torch.cuda.current_stream().wait_stream(side)
    logits = _pinned(tuple(found.shape), found.dtype)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits.tensor.copy_(compute(), non_blocking=True)
    return _Graph(
        inputs=inputs,
        logits=logits,
        replay=graph.replay,
        wait=torch.cuda.current_stream().synchronize,
    )


def _widened(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Those of a model with float16 or bfloat16 parameters as float32."""
    return logits.float() if dtype in (torch.float16, torch.bfloat16) else logits
