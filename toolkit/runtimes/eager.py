"""Eager PyTorch: the checkpoint itself, the model that every artifact must agree with.

With precision fp64 it is the reference of the parity reports.
"""

from __future__ import annotations

from toolkit.errors import ArtifactError
from toolkit.runtimes import Session, Source
from toolkit.schema import Settings


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`."""
    import torch

    from toolkit.checkpoint import load_model
    from toolkit.torch_session import TorchSession, prepare_torch

    device = prepare_torch(settings)
    model, record = load_model(source.path, trusted=source.model)
    if record.id != source.artifact.checkpoint_id:
        raise ArtifactError(
            f"{source.path}: checkpoint {record.id}, expected {source.artifact.checkpoint_id}; "
            "it was replaced meanwhile: start again"
        )
    dtype = torch.float64 if source.artifact.precision == "fp64" else torch.float32
    model = model.to(device, dtype)
    return TorchSession("eager", model, model.parameters(), device)
