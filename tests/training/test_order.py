"""The order of images: every image once per epoch, shuffled, independent of the starting point."""

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


@given(**SIZES, processes=some.integers(1, 4))
def test_each_epoch_has_every_image_once_for_any_number_of_processes(
    images: int, batch_size: int, epochs: float, seed: int, processes: int
) -> None:
    images, batch_size = images + processes, batch_size * processes
    order = Order(
        images=images, batch_size=batch_size, epochs=epochs, seed=seed, processes=processes
    )
    done = 0
    for number in range(order.whole_epochs):
        shares = [order.epoch(number, rank=rank) for rank in range(processes)]
        batches = [torch.cat(parts) for parts in zip(*shares, strict=True)]
        for parts, batch in zip(zip(*shares, strict=True), batches, strict=True):
            assert len({len(part) for part in parts}) == 1  # evenly
            assert 0 < len(batch) <= batch_size
        rows = torch.cat(batches)
        assert len(rows.unique()) == len(rows)
        assert order.images_in(done, done + len(batches)) == len(rows) or (
            done + len(batches) == order.steps  # the last epoch may end early
        )
        done += len(batches)
        if done % order.steps_per_epoch == 0:
            assert images - len(rows) < processes
            assert processes > 1 or rows.sort().values.tolist() == list(range(images))
    assert done == order.steps


def test_order_and_seeds_depend_only_on_the_position() -> None:
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


@given(**SIZES)
def test_an_epoch_that_ends_early_has_the_images_with_the_largest_losses(
    images: int, batch_size: int, epochs: float, seed: int
) -> None:
    order = Order(images=images, batch_size=batch_size, epochs=epochs, seed=seed)
    losses = torch.rand(images, generator=torch.Generator().manual_seed(seed))
    last = order.whole_epochs - 1
    usual, found = (torch.cat(order.epoch(last, losses=each)) for each in (None, losses))
    assert len(found) == len(usual) == len(found.unique())
    if order.ends_early(last):
        others = torch.ones(images, dtype=torch.bool)
        others[found] = False
        assert not others.any() or losses[found].min() >= losses[others].max()
    else:
        assert torch.equal(found, usual)
    for number in range(last):  # whole ones have all images, in the same order
        whole = order.epoch(number), order.epoch(number, losses=losses)
        assert all(torch.equal(*pair) for pair in zip(*whole, strict=True))


def test_the_hardest_images_come_in_random_order() -> None:
    order = Order(images=1000, batch_size=10, epochs=1.5, seed=5)
    losses = torch.arange(1000.0)
    batches = order.epoch(1, losses=losses)
    assert sorted(torch.cat(batches).tolist()) == list(range(500, 1000))
    assert torch.cat(batches).tolist() != list(range(500, 1000))
    assert (
        max(batch.float().std() for batch in batches) > 100
    )  # each batch has hard and less hard ones
