"""Eager PyTorch recorded as CUDA graphs, which start all kernels at once.

In: a checkpoint folder. Out: a session with one graph for each of the batch sizes that came last.
Not yet run on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_CALLS_BEFORE_RECORDING = 3  # libraries allocate in their first calls, but a graph must not
_KEPT_BATCH_SIZES = 4


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`; the first call of each batch size records."""
    from toolkit.checkpoints.storage import load_same_model
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    model = load_same_model(source.path, source.artifact.checkpoint_id, trusted=source.model)
    model = model.to(device)
    return TorchSession("cudagraph", Graphs(model), model.parameters(), device)


class Graphs:
    """The model as recorded graphs, one per batch size."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self._model = model
        self._graph = lru_cache(maxsize=_KEPT_BATCH_SIZES)(self._record)

    def __call__(self, batch: Tensor) -> Tensor:
        """Float32 `[N,C,H,W]` on the GPU → logits `[N,K]` there; the next call overwrites them."""
        replay, inputs, logits = self._graph(batch.shape)
        inputs.copy_(batch)
        replay()
        return logits

    def _record(self, shape: tuple[int, ...]) -> tuple[Callable[[], None], Tensor, Tensor]:
        import torch

        inputs = torch.zeros(shape, device="cuda")
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_CALLS_BEFORE_RECORDING):
                self._model(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._model(inputs)
        return graph.replay, inputs, logits
