"""A training step of 100 images, by each recipe, through the same parts as `toolkit train`.

    pytest benchmarks/test_training.py

`benchmarks/training.py` measures whole trainings, and what accuracy they reach.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import CHECKPOINT
from pytest_benchmark.fixture import BenchmarkFixture

from toolkit.checkpoint import read_checkpoint
from toolkit.data import load_dataset
from toolkit.environment import usable_cores
from toolkit.model import ReferenceCNN
from toolkit.training.feed import make_feed
from toolkit.training.order import Order
from toolkit.training.processes import Processes
from toolkit.training.recipe import RECIPES
from toolkit.training.step import make_step

BATCH_SIZE = 100


def training_step(recipe: str) -> Callable[[], object]:
    """Feed, forward, backward, update; each call on the next batch of an endless training."""
    data = load_dataset("train")
    spec = read_checkpoint(CHECKPOINT).input
    torch.manual_seed(0)
    model = ReferenceCNN().train()
    own = RECIPES[recipe]
    step, _ = make_step(model, "cpu", BATCH_SIZE, tuned=own.tuned, processes=Processes())
    feed = make_feed(data, spec, "cpu", one_by_one=own.one_by_one)
    order = Order(images=len(data), batch_size=BATCH_SIZE, epochs=1, seed=1)
    batches = feed(order.epoch(0) * 10)

    def call() -> object:
        images, labels = next(batches)
        return step(images, labels, lr=own.lr / 100)

    return call


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_training_step(benchmark: BenchmarkFixture, recipe: str) -> None:
    torch.set_num_threads(usable_cores())
    benchmark.extra_info["batch_size"] = BATCH_SIZE
    benchmark.pedantic(training_step(recipe), rounds=30, iterations=1, warmup_rounds=5)
