"""A user's model unlike the reference: colour images, batch norm, strides, a depthwise and a 1x1
convolution, five classes. And what it takes to export it and to run the file in a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts import NamedClassifier
from toolkit.candidates import Candidate
from toolkit.files import sha256_of, size_of
from toolkit.formats import Request
from toolkit.model import example_input
from toolkit.preprocessing import normalise
from toolkit.runtimes import RUNTIMES, Source
from toolkit.schema import Artifact, InputSpec, Precision, Settings

SHAPE = (3, 32, 32)
CLASSES = 5
INPUT = InputSpec(shape=SHAPE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


class ColourCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.pointwise(self.depthwise(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def build() -> nn.Module:
    """One with weights from a fixed seed, in eval mode, behind the names of the artifacts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NamedClassifier(ColourCNN()).eval()


def request_for(path: Path, *, precision: Precision = "fp32") -> Request:
    """What an exporter is asked for."""
    return Request(
        model=build(),
        example=example_input(SHAPE, batch_size=2),
        path=path,
        precision=precision,
        calibration=np.zeros((0, *SHAPE), np.float32),
        isas=None,
    )


def candidate_for(
    path: Path, *, runtime: str, precision: Precision = "fp32", threads: int = 1
) -> Candidate:
    """The file in a runtime."""
    row = RUNTIMES[runtime]
    artifact = Artifact(
        format=row.formats[0],
        precision=precision,
        path=path.name,
        size_bytes=size_of(path),
        sha256=sha256_of(path),
        checkpoint_sha256="0",
        spec_sha256="0",
        input_shape=SHAPE,
        classes=CLASSES,
    )
    source = Source(path=path, artifact=artifact)
    return Candidate(runtime=row, source=source, settings=Settings(threads=threads), input=INPUT)


def pixels(count: int) -> NDArray[np.uint8]:
    """Noise `[count,3,32,32]`."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of eager torch."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = build()(torch.from_numpy(normalise(images, INPUT))).numpy()
    return logits
