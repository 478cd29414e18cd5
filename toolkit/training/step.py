"""One training step: forward, loss, backward, update; on CUDA recorded once and replayed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor, nn

from toolkit.schema import Device
from toolkit.training.dropout import with_cheap_dropout
from toolkit.training.optimizers import FusedAdam, Optimizer, PlainAdam
from toolkit.training.processes import Processes

_STEPS_BEFORE_RECORDING = 3  # libraries allocate in their first calls, but CUDA graphs must not


class Step(Protocol):
    """Trains on images `[N,C,H,W]`, normalised, and int64 labels `[N]`, both on the device, with
    the learning rate; returns the cross entropy of each image `[N]`, on the device."""

    def __call__(self, images: Tensor, labels: Tensor, *, lr: float) -> Tensor: ...


def make_step(
    model: nn.Module,
    device: Device,
    batch_size: int,
    *,
    tuned: bool,
    processes: Processes,
    label_smoothing: float = 0.0,
) -> tuple[Step, Optimizer]:
    """Return the step that trains `model` in place, with its optimizer. With several processes,
    each must make its own. `batch_size` is the usual size of a batch."""
    graphed = tuned and device == "cuda" and processes.count == 1
    optimizer: Optimizer
    if tuned:
        model.to(memory_format=torch.channels_last)
        if device == "cpu":
            with_cheap_dropout(model)
        optimizer = FusedAdam(model.parameters(), recordable=graphed)
    else:
        optimizer = PlainAdam(model.parameters())
    eager = EagerStep(
        processes.wrap(model),
        optimizer,
        device,
        bfloat16=tuned and _fast(device),
        label_smoothing=label_smoothing,
    )
    return (GraphedStep(eager, batch_size) if graphed else eager), optimizer


class EagerStep:
    """A step whose kernels are started one by one."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        device: Device,
        *,
        bfloat16: bool,
        label_smoothing: float = 0.0,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._device = device
        self._bfloat16 = bfloat16
        self._label_smoothing = label_smoothing

    def __call__(self, images: Tensor, labels: Tensor, *, lr: float) -> Tensor:
        """See `Step`."""
        self.set_lr(lr)
        return self.update(images, labels)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate, also for a recorded graph."""
        self._optimizer.set_lr(lr)

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run forward, backward, and one step of the optimizer."""
        with self._precision():
            logits = self._model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return F.cross_entropy(logits.detach(), labels, reduction="none")

    def _precision(self) -> AbstractContextManager[None]:
        """Weights, loss and optimizer stay float32. There is no cache, because a graph must not
        read one."""
        return torch.autocast(
            self._device, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False
        )


class GraphedStep:
    """The same step as a CUDA graph. The first batches run normally, then the step is recorded, and
    replayed for every batch of `batch_size` images; other batches run normally."""

    def __init__(self, eager: EagerStep, batch_size: int) -> None:
        self._eager = eager
        self._batch_size = batch_size
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._side = torch.cuda.Stream()

    def __call__(self, images: Tensor, labels: Tensor, *, lr: float) -> Tensor:
        """See `Step`."""
        self._eager.set_lr(lr)
        if len(images) != self._batch_size:
            return self._eager.update(images, labels)
        if self._calls < _STEPS_BEFORE_RECORDING:
            self._calls += 1
            return self._on_the_side(images, labels)
        graph = self._graph or self._record(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        graph.replay()
        return self._losses.clone()

    def _on_the_side(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run in a separate stream, as the recording will be."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            losses = self._eager.update(images, labels)
        torch.cuda.current_stream().wait_stream(self._side)
        return losses

    def _record(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Record the graph; nothing is computed meanwhile. Other threads, such as a loader's, may
        use CUDA at the same time."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._losses = self._eager.update(self._images, self._labels)
        self._graph = graph
        return graph


def _fast(device: Device) -> bool:
    """Return whether the device computes bfloat16 faster than float32, in hardware."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
