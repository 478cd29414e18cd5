"""Several processes that train one model: DistributedDataParallel, started by `torchrun`.

In: the environment that torchrun sets. Out: the rank of this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn

from toolkit.schema import Device


@dataclass(frozen=True, kw_only=True)
class Processes:
    """`count` processes; this one has the number `rank`, from 0."""

    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, whose gradients are averaged over all processes."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: Device) -> Iterator[Processes]:
    """Join the processes that torchrun started, with gloo on CPU and NCCL on CUDA; without
    torchrun, do nothing."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes()
        return
    if device == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        distributed.init_process_group("nccl", device_id=own)
    else:
        distributed.init_process_group("gloo")
    yield Processes(rank=distributed.get_rank(), count=distributed.get_world_size())
    # Not after an error: it would wait for the others, which wait for this one. torchrun ends them.
    distributed.destroy_process_group()
