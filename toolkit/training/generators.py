"""Seeding of the random generators that training steps use.

In: the device, and a seed. Out: nothing; the default generators of the device and the CPU are
seeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolkit.schema import Device


def seed_generators(device: Device, seed: int) -> None:
    """Seed the generators of the CPU and, on CUDA, of the current device.

    The numbers are the same as with `torch.manual_seed`. That function visits every kind of device
    that torch knows, which takes half a millisecond per call: more than a step on a fast GPU.

    A recorded CUDA graph may be replayed afterwards: it copies seed and offset from the device's
    default generator at each replay (`CUDAGeneratorState::replay_prologue` in
    https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/cuda/CUDAGeneratorImpl.cpp).
    """
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        current = torch.cuda.current_device()  # creates the generators if CUDA was not used before
        torch.cuda.default_generators[current].manual_seed(seed)


@contextmanager
def callers_generators_kept(device: Device) -> Iterator[None]:
    """Restore the caller's random generators after the body."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
