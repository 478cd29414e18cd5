"""A user's classifier that is not the reference: other shape, other classes, a branch, batch norm.

With it the requests and sources that exporters and runtimes take.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts import NamedClassifier
from toolkit.files import sha256_of, size_of
from toolkit.formats import Request
from toolkit.runtimes import Source
from toolkit.schema import Artifact, Precision

SHAPE = (3, 31, 29)
CLASSES = 5


class Residual(nn.Module):
    """Batch norm before and after convolutions, a branch that is added, a global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.BatchNorm2d(SHAPE[0])
        self.stem = nn.Conv2d(SHAPE[0], 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.hidden = nn.Linear(16 * 7 * 7, 64)
        self.last = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N,3,31,29]` → logits `[N,5]`."""
        x = torch.relu(self.norm(self.stem(self.entry(x))))
        x = nn.functional.adaptive_avg_pool2d(x + self.branch(x), 7)
        logits: Tensor = self.last(torch.relu(self.hidden(x.view(x.size(0), -1))))
        return logits


def residual() -> nn.Module:
    """The classifier with fixed weights, behind the names that artifacts have."""
    generator = torch.Generator().manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return NamedClassifier(model).eval()


def request(model: nn.Module, path: Path, *, precision: Precision) -> Request:
    """Export `model` to `path`."""
    return Request(
        model=model,
        example=torch.zeros(2, *SHAPE),
        path=path,
        precision=precision,
        calibration=np.zeros((0, *SHAPE), np.float32),
        isas=None,
    )


def source_of(path: Path, precision: Precision = "fp32") -> Source:
    """What a session of the exported file or folder is loaded from."""
    artifact = Artifact(
        format=path.suffix[1:],
        precision=precision,
        path=path.name,
        size_bytes=size_of(path),
        sha256=sha256_of(path),
        checkpoint_sha256="",
        spec_sha256="",
        input_shape=SHAPE,
        classes=CLASSES,
    )
    return Source(path=path, artifact=artifact)


def damaged(folder: Path, into: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of an artifact that is a folder, with one of its files changed."""
    copy = Path(shutil.copytree(folder, into / folder.name))
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    return copy


def logits_of(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What eager PyTorch gives."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits
