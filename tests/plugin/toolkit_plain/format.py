"""The format: an `.npz` file with the weights of convolutions and linear layers, in order."""

from __future__ import annotations

import numpy as np
from torch import nn

from toolkit.artifacts.formats import Request, Written


def export(request: Request) -> Written:
    """Write the layers of a model like the reference CNN."""
    layers = [each for each in request.model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    arrays = {
        f"{number:02}.{name}": value.detach().numpy()
        for number, layer in enumerate(layers)
        for name, value in layer.named_parameters()
    }
    with request.path.open("wb") as file:
        np.savez(file, **arrays)
    return Written()
