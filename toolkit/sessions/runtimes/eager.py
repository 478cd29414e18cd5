"""Eager PyTorch: the checkpoint itself, which every artifact must agree with.

With precision fp64 it is the reference of the parity reports. With a variant it computes like a
narrower precision, which shows how large the error of that precision should be.
"""

from __future__ import annotations

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`, in the variant of the source.

    Raises:
        Unsupported: An unknown variant.
    """
    import torch

    from toolkit.checkpoints.storage import load_same_model
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    dtype = torch.float64 if source.artifact.precision == "fp64" else torch.float32
    model = load_same_model(source.path, source.artifact.checkpoint_id, trusted=source.model)
    model = model.to(device, dtype)
    if source.variant is None:
        return TorchSession("eager", model, model.parameters(), device)

    from toolkit.artifacts.rounding.torch_model import apply_variant

    rounded = apply_variant(model, source.variant)
    return TorchSession("eager", rounded, model.parameters(), device)
