"""Random numbers of a training: the generators that its steps draw from, seeded step by step.

In: the device, and a seed. Out: nothing; the device's default generator and the CPU's start anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolkit.schema import Device


def seed_generators(device: Device, seed: int) -> None:
    """Seed the generators of the CPU and, on CUDA, of the current device.

    The numbers are those that `torch.manual_seed` would give. That function visits every kind of
    device that torch knows, at every call: half a millisecond, more than a step on a fast GPU.

    A recorded CUDA graph may be replayed after this: it copies seed and offset from the device's
    default generator at each replay (`CUDAGeneratorState::replay_prologue` in
    https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/cuda/CUDAGeneratorImpl.cpp).
    """
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        current = torch.cuda.current_device()  # where CUDA is not in use yet, this makes them
        torch.cuda.default_generators[current].manual_seed(seed)


@contextmanager
def callers_generators_kept(device: Device) -> Iterator[None]:
    """The caller's random numbers go on as if the body had drawn none."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
