"""The effect of each part of the fast recipe on a training step of 100 images, on the CPU.

    pytest benchmarks/test_training.py -s

Two processes alternate: one keeps the memory that it frees, as the fast recipe does; the other
returns it. `benchmarks/training.py` measures whole trainings and their accuracy.
"""

from __future__ import annotations

import functools
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.common import CHECKPOINT
from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.checkpoints.storage import read_checkpoint
from toolkit.data import load_dataset
from toolkit.machine.allocator import keep_memory
from toolkit.machine.environment import usable_cores
from toolkit.timing import time_calls
from toolkit.training.dropout import with_cheap_dropout
from toolkit.training.feed import make_feed
from toolkit.training.optimizers import FusedAdam, Optimizer, PlainAdam
from toolkit.training.order import Order
from toolkit.training.processes import Processes
from toolkit.training.step import EagerStep, make_step

BATCH_SIZE = 100
ROUNDS = 30
UNTIMED = 5
PARTS = ("channels_last", "cheap_dropout", "bfloat16", "fused")

Batch = tuple[torch.Tensor, torch.Tensor]
Update = Callable[[Batch], object]


def with_parts(parts: frozenset[str]) -> Update:
    """Return a step with these parts from the fast recipe and the others from the plain one."""
    torch.manual_seed(0)
    model = ReferenceCNN().train()
    if "channels_last" in parts:
        model.to(memory_format=torch.channels_last)
    if "cheap_dropout" in parts:
        with_cheap_dropout(model)
    parameters = list(model.parameters())
    optimizer: Optimizer = PlainAdam(parameters)
    if "fused" in parts:
        optimizer = FusedAdam(parameters, recordable=False)
    step = EagerStep(model, optimizer, "cpu", bfloat16="bfloat16" in parts)
    return lambda batch: step(*batch, lr=1e-5)


def recipe(*, tuned: bool) -> Update:
    """Return the step of the recipe itself."""
    torch.manual_seed(0)
    model = ReferenceCNN().train()
    step, _ = make_step(model, "cpu", BATCH_SIZE, tuned=tuned, processes=Processes())
    return lambda batch: step(*batch, lr=1e-5)


VARIANTS: dict[str, tuple[bool, Callable[[], Update]]] = {
    "plain": (False, functools.partial(recipe, tuned=False)),
    **{
        f"plain, {part}": (False, functools.partial(with_parts, frozenset({part})))
        for part in PARTS
    },
    "plain, memory kept": (True, functools.partial(recipe, tuned=False)),
    "fast": (True, functools.partial(recipe, tuned=True)),
    **{
        f"fast without {part}": (True, functools.partial(with_parts, frozenset(PARTS) - {part}))
        for part in PARTS
    },
    "fast, memory returned to the system": (False, functools.partial(recipe, tuned=True)),
}
"""Name → whether memory is kept, and the function that creates the step."""


@functools.cache
def batches() -> list[Batch]:
    data, spec = load_dataset("train"), read_checkpoint(CHECKPOINT).input
    order = Order(images=len(data), batch_size=BATCH_SIZE, epochs=1, seed=1)
    feed = make_feed(data, spec, "cpu")
    return list(feed(order.epoch(0)[: UNTIMED + ROUNDS]))


@functools.cache
def update_of(name: str) -> Update:
    return VARIANTS[name][1]()


def begin(keep: bool) -> None:
    """Run in a separate process."""
    torch.set_num_threads(usable_cores())
    assert not keep or keep_memory()


def step_ms(name: str, number: int) -> float:
    """Time one step."""
    ((time_ns,), _) = time_calls(update_of(name), [batches()[number]], calls=1)
    return time_ns / 1e6


def test_parts_of_the_fast_step() -> None:
    """Medians of alternating steps; the fast recipe is at least as fast as the plain one."""
    spawn = multiprocessing.get_context("spawn")
    times_ms: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with (
        ProcessPoolExecutor(1, spawn, initializer=begin, initargs=(True,)) as keeps,
        ProcessPoolExecutor(1, spawn, initializer=begin, initargs=(False,)) as gives,
    ):
        for number in range(UNTIMED + ROUNDS):
            for name, (keep, _) in VARIANTS.items():
                found = (keeps if keep else gives).submit(step_ms, name, number).result()
                if number >= UNTIMED:
                    times_ms[name].append(found)
    medians = {name: statistics.median(times) for name, times in times_ms.items()}
    for name, median in medians.items():
        print(f"{name:28} {median:6.1f} ms, {median / medians['plain']:.2f} of plain")
    assert medians["fast"] <= medians["plain"]
