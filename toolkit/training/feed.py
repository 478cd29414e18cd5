"""The feed: rows of a data set → normalised batches on the device.

A data set that fits is kept on the device as a whole, and batches are selected there by index. A
larger one is read by worker processes, batch by batch, during the previous step. The plain recipe
converts image by image, like a typical script. All three give the same numbers.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from toolkit.data import Dataset
from toolkit.data.images import ImageFiles
from toolkit.errors import DatasetError, SettingError
from toolkit.machine.environment import usable_cores
from toolkit.schema import Device, InputSpec
from toolkit.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]
Feed = Callable[[Sequence[Tensor]], Iterator[Batch]]
"""Rows of each batch, int64 → images float32 `[N,C,H,W]`, normalised, and labels int64 `[N]`, on
the device."""

_RESIDENT_BYTES = 1 << 30
_MOST_WORKERS = 4
_LONGEST_SOCKET = 103  # bytes of its path; 107 on Linux, 103 on macOS
_SOCKET = "/pymp-12345678/listener-12345678"  # multiprocessing.connection.arbitrary_address


def make_feed(
    dataset: Dataset, spec: InputSpec, device: Device, recipe: Recipe | None = None
) -> Feed:
    """Return the feed that suits the data and the recipe; without a recipe, the fastest."""
    if recipe is not None and recipe.one_by_one:
        if not recipe.workers:
            return OneByOne(dataset, spec, device)
        _check_sockets()
        return OneByOne(dataset, spec, device, workers=usable_cores())
    fits = math.prod(dataset.images.shape) <= _RESIDENT_BYTES
    if fits and not isinstance(dataset.images, ImageFiles):
        return Resident(dataset, spec, device)
    _check_sockets()
    return Streamed(dataset, spec, device)


def _check_sockets() -> None:
    """Check that the worker processes can send batches; otherwise they would wait forever.

    Raises:
        SettingError: The sockets, which Python puts into the temporary folder, have too long names.
    """
    folder = tempfile.gettempdir()
    size, most = len(os.fsencode(folder)), _LONGEST_SOCKET - len(_SOCKET)
    if size > most:
        raise SettingError(
            f"the temporary folder {folder} has a name of {size} bytes, expected at most {most}: "
            "processes that read images put sockets into it; set TMPDIR to a shorter path"
        )


class Scale:
    """uint8 `[N,C,H,W]` → float32, `(x / 255 - mean) / std` per channel: on the CPU the same bits
    as `toolkit.data.preprocessing.normalise`."""

    def __init__(self, spec: InputSpec, device: Device) -> None:
        self._mean = torch.tensor(spec.mean, device=device).reshape(1, -1, 1, 1)
        self._std = torch.tensor(spec.std, device=device).reshape(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Scale images on their device."""
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def black(self) -> Tensor:
        """Return the value of a black pixel: `[1,C,1,1]`."""
        return -self._mean / self._std


class Resident:
    """All images are kept on the device."""

    def __init__(self, dataset: Dataset, spec: InputSpec, device: Device) -> None:
        self._images = torch.tensor(dataset.images[:], device=device)
        self._labels = torch.tensor(dataset.labels, device=device)
        self._scale = Scale(spec, device)

    def __call__(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """See `Feed`. All rows are copied to the device once; then the host never waits."""
        for rows in on_device(batches, self._labels.device):
            yield self._scale(self._images[rows]), self._labels[rows]


class Streamed:
    """Images read by worker processes, from files that are memory-mapped or decoded there."""

    def __init__(self, dataset: Dataset, spec: InputSpec, device: Device) -> None:
        self._dataset = dataset
        self._scale = Scale(spec, device)
        self._device = device

    def __call__(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """See `Feed`."""
        loader = DataLoader(
            _Batches(self._dataset, batches),
            batch_size=None,  # an item is already a batch
            num_workers=min(_MOST_WORKERS, usable_cores()),
            pin_memory=self._device == "cuda",
            multiprocessing_context="spawn",
        )
        try:
            for images, labels in loader:
                yield (
                    self._scale(images.to(self._device, non_blocking=True)),
                    labels.to(self._device, non_blocking=True),
                )
        except (
            DatasetError
        ) as error:  # from a worker, with its traceback as text before the message
            raise DatasetError(str(error).strip().rpartition("DatasetError: ")[2]) from None


class OneByOne:
    """Converts image by image with torchvision's ToTensor and Normalize, like a typical script.

    With `workers`, worker processes read the images, and batches are in pinned memory, as PyTorch's
    tuning guide advises: https://pytorch.org/tutorials/recipes/recipes/tuning_guide.html
    """

    def __init__(
        self, dataset: Dataset, spec: InputSpec, device: Device, *, workers: int = 0
    ) -> None:
        from torchvision.transforms import Compose, Normalize, ToTensor

        transform = Compose([ToTensor(), Normalize(spec.mean, spec.std)])
        self._dataset = _Images(dataset, transform)
        self._device = device
        self._workers = workers
        self._pinned = workers > 0 and device == "cuda"

    def __call__(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """See `Feed`."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self._workers,
            pin_memory=self._pinned,
            # Not a fork, the default on Linux: other threads of this process may hold locks.
            multiprocessing_context="spawn" if self._workers else None,
        )
        for images, labels in loader:
            yield (
                images.to(self._device, non_blocking=self._pinned),
                labels.to(self._device, non_blocking=self._pinned),
            )


class _Batches(TorchDataset[Batch]):
    """Item `number` is a whole raw batch."""

    def __init__(self, dataset: Dataset, batches: Sequence[Tensor]) -> None:
        self._dataset = dataset
        self._rows: list[NDArray[np.int64]] = [batch.numpy() for batch in batches]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Batch:
        rows = self._rows[number]
        return (
            torch.from_numpy(np.array(self._dataset.images[rows])),
            torch.from_numpy(self._dataset.labels[rows]),
        )


class _Images(TorchDataset[tuple[Tensor, int]]):
    """Item `row` is one image, converted from a PIL image as `torchvision.datasets` does."""

    def __init__(self, dataset: Dataset, transform: Callable[[object], Tensor]) -> None:
        self._dataset = dataset
        self._transform = transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        pixels = self._dataset.images[row].transpose(1, 2, 0)
        channels, label = pixels.shape[-1], int(self._dataset.labels[row])
        if channels == 1:
            return self._transform(Image.fromarray(pixels[..., 0])), label
        if channels == 3:
            return self._transform(Image.fromarray(pixels)), label
        return self._transform(np.ascontiguousarray(pixels)), label


def on_device(batches: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Copy all rows to the device at once, and return those of each batch."""
    if not batches:
        return batches
    return torch.split(torch.cat(list(batches)).to(device), [len(batch) for batch in batches])
