"""A user's classifier unlike the reference: colour, odd and unequal sides, batch normalisation, a
residual sum, a depthwise and a 1x1 convolution, mean pooling, five classes.

It includes the helpers to export it and to load the result in this process or in a worker.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts.formats import Request, Written
from toolkit.checkpoints.model import exportable
from toolkit.data.preprocessing import normalise
from toolkit.files import sha256_of, size_of
from toolkit.schema import Artifact, InputSpec, Isa, Precision, Settings
from toolkit.sessions.candidates import Candidate
from toolkit.sessions.runtimes import RUNTIMES, Source

SHAPE = (3, 31, 29)
CLASSES = 5
INPUT = InputSpec(shape=SHAPE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
IMAGES = np.random.default_rng(0).standard_normal((60, *SHAPE), np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (250, *SHAPE), np.uint8)


class ColourNet(nn.Module):
    """Float32 `[N,3,31,29]` → logits `[N,5]`; the weights come from a fixed seed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.pointwise = nn.Conv2d(16, 16, 1)
            self.hidden = nn.Linear(16 * 7 * 7, 64)
            self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.pointwise(self.depthwise(x)))
        x = nn.functional.avg_pool2d(x, 4)
        logits: Tensor = self.head(torch.relu(self.hidden(x.view(x.size(0), -1))))
        return logits


class InPlace(ColourNet):
    """Normalises its argument in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.1).div_(0.8))


class OneLayer(nn.Module):
    """Logistic regression: the layer that produces the logits is the only layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.only = nn.Linear(int(np.prod(SHAPE)), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.only(x.flatten(1))
        return logits


def request_for(
    path: Path,
    precision: Precision = "fp32",
    *,
    isas: tuple[Isa, ...] | None = None,
    model: nn.Module | None = None,
    measured: NDArray[np.float32] | None = None,
) -> Request:
    """A request to write the model in `precision`, with its own images for calibration."""
    example = torch.from_numpy(IMAGES[:2].copy())
    return Request(
        model=exportable(model or ColourNet(), example),
        example=example,
        path=path,
        precision=precision,
        calibration=IMAGES,
        isas=isas,
        measured=measured,
    )


def logits_of(images: NDArray[np.float32], model: nn.Module | None = None) -> NDArray[np.float32]:
    """Return torch's float32 logits of normalised images."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = (
            (model or ColourNet()).eval()(torch.from_numpy(images)).numpy()
        )
    return logits


def error_ratio(written: Written, logits: NDArray[np.floating]) -> float:
    """The root mean square of the error of these logits of `IMAGES`, divided by the expected
    one."""
    assert written.expected_error is not None
    assert written.expected_error.images == len(IMAGES)
    error = logits - logits_of(IMAGES)
    return float(np.sqrt(np.mean(np.square(error)))) / written.expected_error.rms


def logits_of_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same for raw images."""
    return logits_of(normalise(pixels, INPUT))


def source_of(path: Path, format: str, precision: Precision = "fp32") -> Source:
    """The source of a written file, as export would record it, except for the checkpoint."""
    artifact = Artifact(
        format=format,
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


def candidate_for(
    path: Path, *, runtime: str, precision: Precision = "fp32", threads: int = 1
) -> Candidate:
    """The file in a runtime, for a worker."""
    row = RUNTIMES[runtime]
    source = source_of(path, row.formats[0], precision)
    return Candidate(runtime=row, source=source, settings=Settings(threads=threads), input=INPUT)


def damaged(folder: Path, into: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a folder artifact with one changed file."""
    copy = Path(shutil.copytree(folder, into / folder.name))
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    return copy
