"""Eager PyTorch recorded as CUDA graphs, which start all kernels at once.

In: a checkpoint folder. Out: a session with one graph for each of the most recent batch sizes.
"""

from __future__ import annotations

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`; the first call of each batch size records a
    graph."""
    import torch

    from toolkit.checkpoints.storage import load_same_model
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch
    from toolkit.sessions.runtimes._torch_calls import graph_call

    device = prepare_torch(settings)
    model = load_same_model(source.path, source.artifact.checkpoint_id, trusted=source.model)
    model = model.to(device)
    call = graph_call(model, torch.float32)
    return TorchSession("cudagraph", model, model.parameters(), device, call=call)
