"""A call of a torch model owns its input and its output, on the CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from colour import IMAGES, ColourNet, InPlace, logits_of
from torch import nn

from toolkit.sessions.runtimes._torch_arithmetic import pin_arithmetic
from toolkit.sessions.runtimes._torch_calls import Call, direct_call, graph_call, staged_call

MakeCall = Callable[[Any, torch.dtype], Call]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ON_CPU = [pytest.param(direct_call, "cpu", id="direct")]
ON_CUDA = [
    pytest.param(staged_call, "cuda", marks=needs_cuda, id="staged"),
    pytest.param(graph_call, "cuda", marks=needs_cuda, id="graph"),
]
on_each_way = pytest.mark.parametrize(("make", "device"), ON_CPU + ON_CUDA)


def logits(call: Call, inputs: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return call(inputs)


@pytest.fixture(autouse=True)
def pinned_arithmetic() -> None:
    pin_arithmetic()


@on_each_way
@pytest.mark.parametrize("model", [ColourNet(), InPlace()], ids=["plain", "in place"])
def test_any_number_of_images_gives_the_models_logits(
    make: MakeCall, device: str, model: nn.Module
) -> None:
    """Uses more shapes than are kept, and then the first one again."""
    wanted = logits_of(IMAGES.copy(), model.cpu())
    call = make(model.eval().to(device), torch.float32)
    for count in (1, 2, 3, 4, 5, 6, 1):
        inputs = IMAGES[:count].copy()
        np.testing.assert_allclose(logits(call, inputs), wanted[:count], atol=1e-5)
        np.testing.assert_array_equal(inputs, IMAGES[:count])
    model.cpu()


@on_each_way
def test_next_call_does_not_change_earlier_logits(make: MakeCall, device: str) -> None:
    call = make(ColourNet().eval().to(device), torch.float32)
    first = logits(call, IMAGES)
    kept = first.copy()
    assert not np.array_equal(logits(call, IMAGES[::-1].copy()), kept)
    np.testing.assert_array_equal(first, kept)


@on_each_way
@pytest.mark.parametrize(
    ("dtype", "given"),
    [(torch.float64, np.float64), (torch.float16, np.float32), (torch.bfloat16, np.float32)],
)
def test_inputs_are_cast_to_the_parameter_dtype(
    make: MakeCall, device: str, dtype: torch.dtype, given: type
) -> None:
    call = make(ColourNet().eval().to(device, dtype), dtype)
    found = logits(call, IMAGES)
    assert found.dtype == given
    np.testing.assert_allclose(found, logits_of(IMAGES.copy(), ColourNet()), atol=0.1)


@on_each_way
def test_strided_inputs_are_accepted(make: MakeCall, device: str) -> None:
    call = make(ColourNet().eval().to(device), torch.float32)
    wanted = logits(call, IMAGES[::2].copy())
    strided = IMAGES[::2]
    np.testing.assert_allclose(logits(call, strided), wanted, atol=1e-6)


@needs_cuda
def test_graph_writes_only_into_its_own_memory() -> None:
    """The graph's input on the GPU must live as long as the graph; otherwise its memory is
    reused."""
    call = graph_call(ColourNet().eval().cuda(), torch.float32)
    logits(call, IMAGES)
    others = [torch.full(IMAGES.shape, 7.0, device="cuda") for _ in range(8)]
    logits(call, IMAGES)
    assert all(bool((each == 7).all()) for each in others)
