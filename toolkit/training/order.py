"""The order of the training images, and the seed of every step; pure functions.

Both depend only on the seed and the position (and, if requested, on earlier losses). An interrupted
training therefore continues exactly, and no state of a generator has to be saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ORDER, _STEP = 0, 1  # independent streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Order:
    """`images` in batches of `batch_size`, shuffled again in each epoch, for `epochs` (may be 1.5).

    Several processes share each batch evenly. Images that cannot be shared are left out; they
    differ from epoch to epoch.
    """

    images: int
    batch_size: int
    epochs: float
    seed: int
    processes: int = 1

    @property
    def images_per_epoch(self) -> int:
        """The number of images that can be shared evenly."""
        return self.images - self.images % self.processes

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of a whole epoch; the last may be smaller."""
        return math.ceil(self.images_per_epoch / self.batch_size)

    @property
    def steps(self) -> int:
        """The number of steps of all epochs; at least one."""
        return max(1, round(self.epochs * self.steps_per_epoch))

    @property
    def whole_epochs(self) -> int:
        """The number of epochs that are begun; the last may end early."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def images_in(self, first: int, last: int) -> int:
        """The number of images in the steps from `first` up to, but not including, `last`."""
        epochs = [divmod(step, self.steps_per_epoch) for step in (first, last)]
        done = [
            epoch * self.images_per_epoch + within * self.batch_size for epoch, within in epochs
        ]
        return done[1] - done[0]

    def ends_early(self, number: int) -> bool:
        """Return whether epoch `number`, from 0, is begun and does not contain all images."""
        return number * self.steps_per_epoch < self.steps < (number + 1) * self.steps_per_epoch

    def epoch(self, number: int, *, rank: int = 0, losses: Tensor | None = None) -> list[Tensor]:
        """Return the rows of each batch of epoch `number`, from 0: int64, sorted, so that a file is
        read forward. With several processes, each has its own part of every batch.

        `losses` has one value per image. An epoch that ends early then has the images with the
        largest loss, in random order. Ties go to the images that come first in the data.
        """
        generator = torch.Generator().manual_seed(_seed(self.seed, _ORDER, number))
        rows = torch.randperm(self.images, generator=generator)
        steps = self.steps - number * self.steps_per_epoch
        if losses is not None and self.ends_early(number):
            hardest = losses.argsort(descending=True, stable=True)[: steps * self.batch_size]
            rows = rows[torch.isin(rows, hardest)]
        rows = rows[: self.images_per_epoch]
        batches = torch.split(rows, self.batch_size)[:steps]
        return [batch[rank :: self.processes].sort().values for batch in batches]

    def seed_of_step(self, step: int, *, rank: int = 0) -> int:
        """Return the seed of dropout and augmentation in step `step`, from 0."""
        return _seed(self.seed, _STEP, rank, step)


def _seed(*place: int) -> int:
    """Return 63 bits that are independent of those of any other position."""
    words = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
