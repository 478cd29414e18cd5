"""The order of images: every image once an epoch, shuffled, the same wherever one begins."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as some

from toolkit.training.order import Order

SIZES = {
    "images": some.integers(1, 500),
    "batch_size": some.integers(1, 120),
    "epochs": some.floats(0.01, 4),
    "seed": some.integers(0, 2**63 - 1),
}


@given(**SIZES)
def test_each_epoch_has_every_image_once(
    images: int, batch_size: int, epochs: float, seed: int
) -> None:
    order = Order(images=images, batch_size=batch_size, epochs=epochs, seed=seed)
    batches = [order.epoch(number) for number in range(order.whole_epochs)]
    assert sum(map(len, batches)) == order.steps
    for epoch in batches[:-1]:
        assert torch.cat(epoch).sort().values.tolist() == list(range(images))
    last = torch.cat(batches[-1]).tolist()
    assert len(set(last)) == len(last)
    assert all(len(batch) <= batch_size for epoch in batches for batch in epoch)
    counted = sum(len(batch) for epoch in batches for batch in epoch)
    assert order.images_in(0, order.steps) == counted or order.steps % order.steps_per_epoch


@given(**SIZES, processes=some.integers(1, 4))
def test_processes_share_each_batch_evenly(
    images: int, batch_size: int, epochs: float, seed: int, processes: int
) -> None:
    images, batch_size = images + processes, batch_size * processes
    order = Order(images=images, batch_size=batch_size, epochs=epochs, seed=seed)
    shares = [order.epoch(0, rank=rank, processes=processes) for rank in range(processes)]
    whole = order.epoch(0)
    for parts in zip(*shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert len(torch.cat(parts).unique()) == sum(map(len, parts))
    for batch, parts in zip(whole[:-1], zip(*shares, strict=False), strict=False):
        assert torch.cat(parts).sort().values.tolist() == batch.tolist()


def test_order_and_seeds_depend_on_the_place_alone() -> None:
    order = Order(images=50, batch_size=10, epochs=3, seed=5)
    again = Order(images=50, batch_size=10, epochs=3, seed=5)
    other = Order(images=50, batch_size=10, epochs=3, seed=6)
    rows = [torch.cat(order.epoch(number)).tolist() for number in range(3)]
    assert rows[2] == torch.cat(again.epoch(2)).tolist()
    assert len({str(each) for each in (*rows, torch.cat(other.epoch(0)).tolist())}) == 4
    seeds = [each.seed_of_step(step, rank=rank) for each in (order, other)
             for step in range(100) for rank in range(2)]  # fmt: skip
    assert len(set(seeds)) == 400
    assert order.seed_of_step(7, rank=1) == again.seed_of_step(7, rank=1)
