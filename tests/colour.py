"""A user's classifier that is not like the reference: colour, batch normalisation, a residual sum,
a depthwise convolution, means in place of a flatten, five classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.formats import Request
from toolkit.schema import Artifact, Isa, Precision

SHAPE = (3, 32, 32)
CLASSES = 5
IMAGES = np.random.default_rng(0).standard_normal((60, *SHAPE), np.float32)


class ColourNet(nn.Module):
    """Float32 `[N,3,32,32]` → logits `[N,5]`; the weights come from a fixed seed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.pointwise = nn.Conv2d(16, 16, 1)
            self.hidden = nn.Linear(16, 24)
            self.head = nn.Linear(24, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(input)))
        x = x + torch.relu(self.pointwise(self.depthwise(x)))
        logits: Tensor = self.head(torch.relu(self.hidden(x.mean((2, 3)))))
        return logits


class OneLayer(nn.Module):
    """Logistic regression: the layer that gives the logits is the only one."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(3 * 32 * 32, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        logits: Tensor = self.only(input.flatten(1))
        return logits


def request_for(
    path: Path,
    precision: Precision,
    *,
    isas: tuple[Isa, ...] | None = None,
    model: nn.Module | None = None,
) -> Request:
    """A request to write the model in `precision`, with its own images to calibrate on."""
    return Request(
        model=(model or ColourNet()).eval(),
        example=torch.from_numpy(IMAGES[:2].copy()),
        path=path,
        precision=precision,
        calibration=IMAGES,
        isas=isas,
    )


def expected_logits() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """What torch computes of `IMAGES`, in float32."""
    with torch.inference_mode():
        return np.asarray(ColourNet().eval()(torch.from_numpy(IMAGES)).numpy())


def record_of(path: Path, format: str, precision: Precision) -> Artifact:
    """As export would record it, but for checksums, which a session does not read."""
    return Artifact(
        format=format,
        precision=precision,
        path=path.name,
        size_bytes=0,
        sha256="",
        checkpoint_sha256="",
        spec_sha256="",
        input_shape=SHAPE,
        classes=CLASSES,
    )
