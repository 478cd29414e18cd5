"""Eager PyTorch recorded as CUDA graphs: its kernels start as one, not one by one.

In: a checkpoint folder. Out: a session with one graph for each of the batch sizes that came last.
"""

from __future__ import annotations

from toolkit.runtimes import Session, Source
from toolkit.schema import Settings


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`; the first call of each batch size records."""
    import torch

    from toolkit.checkpoint import load_same_model
    from toolkit.torch_calls import graph_call
    from toolkit.torch_session import TorchSession, prepare_torch

    device = prepare_torch(settings)
    model = load_same_model(source.path, source.artifact.checkpoint_id, trusted=source.model)
    model = model.to(device)
    call = graph_call(model, torch.float32)
    return TorchSession("cudagraph", model, model.parameters(), device, call=call)
