"""TorchScript, as `torch.jit.load` returns it: its own unpickler reads tensors, not objects."""

from __future__ import annotations

import warnings

from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source


def load(source: Source, settings: Settings) -> Session:
    """Load a `.torchscript` file."""
    import torch

    from toolkit.artifacts.parsers.torchscript import allows_tf32, narrowest_cast
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    with warnings.catch_warnings():
        # torch deprecates TorchScript from 2.13 on; it still works, and devices run it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        model = torch.jit.load(source.path, map_location=device)
    return TorchSession(
        "torchscript",
        model.eval(),
        model.parameters(),
        device,
        narrowest=narrowest_cast(model),
        tf32=allows_tf32(model),
    )
