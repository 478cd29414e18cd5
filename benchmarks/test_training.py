"""What each part of the fast recipe gives to a training step of 100 images, on the CPU.

    pytest benchmarks/test_training.py -s

`benchmarks/training.py` measures whole trainings, and what accuracy they reach.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from conftest import CHECKPOINT

from toolkit.checkpoint import read_checkpoint
from toolkit.data import load_dataset
from toolkit.environment import usable_cores
from toolkit.model import ReferenceCNN
from toolkit.timing import time_calls
from toolkit.training.dropout import with_cheap_dropout
from toolkit.training.feed import make_feed
from toolkit.training.order import Order
from toolkit.training.processes import Processes
from toolkit.training.step import EagerStep, make_step

BATCH_SIZE = 100
ROUNDS = 30
UNTIMED = 5

Update = Callable[[tuple[torch.Tensor, torch.Tensor]], object]


def update(*, channels_last: bool, cheap_dropout: bool, bfloat16: bool) -> Update:
    """A step of which these parts are as in the fast recipe, the others as in the plain one."""
    torch.manual_seed(0)
    model = ReferenceCNN().train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if cheap_dropout:
        with_cheap_dropout(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    step = EagerStep(model, optimizer, "cpu", bfloat16=bfloat16)
    return lambda batch: step(*batch, lr=1e-5)


def recipe(*, tuned: bool) -> Update:
    """The step of the recipe itself."""
    torch.manual_seed(0)
    model = ReferenceCNN().train()
    step, _ = make_step(model, "cpu", BATCH_SIZE, tuned=tuned, processes=Processes())
    return lambda batch: step(*batch, lr=1e-5)


def test_parts_of_the_fast_step() -> None:
    """Medians of alternating steps; the fast recipe is at least as fast as the plain one."""
    torch.set_num_threads(usable_cores())
    data, spec = load_dataset("train"), read_checkpoint(CHECKPOINT).input
    order = Order(images=len(data), batch_size=BATCH_SIZE, epochs=1, seed=1)
    feed = make_feed(data, spec, "cpu", one_by_one=False)
    batches = list(feed(order.epoch(0)[: UNTIMED + ROUNDS]))
    none = {"channels_last": False, "cheap_dropout": False, "bfloat16": False}
    every = dict.fromkeys(none, True)
    updates = {
        "plain": recipe(tuned=False),
        **{f"plain, {name}": update(**{**none, name: True}) for name in none},
        "all parts": update(**every),
        **{f"all but {name}": update(**{**every, name: False}) for name in none},
        "fast": recipe(tuned=True),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in updates}
    for number, batch in enumerate(batches):
        for name, run in updates.items():
            ((time_ns,), _) = time_calls(run, [batch], calls=1)
            if number >= UNTIMED:
                times_ms[name].append(time_ns / 1e6)
    medians = {name: statistics.median(times) for name, times in times_ms.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:6.1f} ms, {median / medians['plain']:.2f} of plain")
    assert medians["fast"] <= medians["plain"]
