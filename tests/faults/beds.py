"""Beds: healthy checkpoints with images, into which faults are planted.

In: a scratch folder. Out: a checkpoint folder, a folder of IDX files, and healthy exports made on
demand. The reference checkpoint is judged on the test images with the smallest margins and some
others.
"""

from __future__ import annotations

import json
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolkit.artifacts.formats import Request, find_format, load_exporter
from toolkit.artifacts.manifest import MANIFEST, relative_to
from toolkit.checkpoints.model import NamedClassifier, example_input
from toolkit.checkpoints.storage import load_model, save_checkpoint
from toolkit.data import load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.files import sha256_of, size_of
from toolkit.schema import (
    CHECKPOINT_SCHEMA_VERSION,
    MANIFEST_SCHEMA_VERSION,
    Artifact,
    Checkpoint,
    InputSpec,
    Manifest,
    ModelSpec,
    Precision,
    to_json,
)

from .records import Case

REPOSITORY = Path(__file__).parent.parent.parent
REFERENCE = REPOSITORY / "models" / "mnist-cnn"
_NO_IMAGES = np.empty((0, 1, 28, 28), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bed:
    """A healthy checkpoint, the images to judge it on, and a folder for planted cases.

    `trusted` is the model factory to trust; None for the reference CNN.
    """

    name: str
    checkpoint: Path
    data: Path
    folder: Path
    trusted: str | None = None
    _exports: dict[tuple[str, str], Path] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """Return a new copy of the healthy model, in eval mode."""
        return load_model(self.checkpoint, trusted=self.trusted)[0]

    @property
    def record(self) -> Checkpoint:
        """The record of the checkpoint."""
        return load_model(self.checkpoint, trusted=self.trusted)[1]

    def healthy(self, format: str, precision: Precision = "fp32") -> Path:
        """Return the toolkit's own export of the checkpoint. Copy it before changing it."""
        key = (format, precision)
        if key not in self._exports:
            path = self.folder / "healthy" / f"{precision}{find_format(format).suffix}"
            path.parent.mkdir(exist_ok=True, parents=True)
            self.export(self.model(), path, format, precision)
            self._exports[key] = path
        return self._exports[key]

    def export(
        self, model: nn.Module, path: Path, format: str, precision: Precision = "fp32"
    ) -> None:
        """Write any model to `path` with the toolkit's own exporter."""
        shape = self.record.input.shape
        load_exporter(find_format(format)).export(
            Request(
                model=NamedClassifier(model).eval(),
                example=example_input(shape, batch_size=2),
                path=path,
                precision=precision,
                calibration=self.calibration() if precision == "int8" else _NO_IMAGES,
                isas=None,
            )
        )

    def calibration(self) -> NDArray[np.float32]:
        """100 training images, normalised."""
        images = load_dataset("train", None if self.trusted is None else self.data).images[:100]
        return normalise(images, self.record.input)

    def plant(self, cases: list[Case], folder: Path) -> dict[str, str]:
        """Build the cases in `folder` with a matching manifest.

        Returns cases that could not be built: name → reason.
        """
        folder.mkdir(parents=True)
        records, lost = [], {}
        for case in cases:
            path = folder / f"{case.slug}{find_format(case.format).suffix}"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # converters warn about their own calls
                    case.build(self, path)
            except Exception as error:  # noqa: BLE001 - the table says that it was not built
                lost[case.name] = f"{type(error).__name__}: {error}"
                continue
            records.append(self._record(case, path))
        manifest = Manifest(
            schema_version=MANIFEST_SCHEMA_VERSION,
            checkpoint=relative_to(folder, self.checkpoint),
            checkpoint_sha256=self.record.id.weights_sha256,
            spec_sha256=self.record.id.spec_sha256,
            artifacts=tuple(records),
        )
        (folder / MANIFEST).write_text(json.dumps(to_json(manifest)))
        return lost

    def _record(self, case: Case, path: Path) -> Artifact:
        record = self.record
        sizes = sorted(
            (int(each.stem.split("-")[1]) for each in path.glob("batch-*.tflite")), reverse=True
        )
        return Artifact(
            format=case.format,
            precision=case.precision,
            path=path.name,
            size_bytes=size_of(path),
            sha256=sha256_of(path),
            checkpoint_sha256=record.id.weights_sha256,
            spec_sha256=record.id.spec_sha256,
            input_shape=record.input.shape,
            classes=record.classes,
            batch_sizes=tuple(sizes),
        )


def copy_of(source: Path, path: Path) -> None:
    """Copy an artifact, file or folder."""
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)


def put_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write uint8 values as an IDX file."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + np.ascontiguousarray(values).tobytes())


def put_data(
    folder: Path,
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> Path:
    """Write images `[N,C,H,W]` and labels as a folder of IDX files."""
    folder.mkdir(parents=True)
    for stem, (images, labels) in (("t10k", test), ("train", train)):
        grey = images.shape[1] == 1  # as the bundled files are: the same bytes
        kind = "idx3" if grey else "idx4"
        put_idx(folder / f"{stem}-images-{kind}-ubyte", images[:, 0] if grey else images)
        put_idx(folder / f"{stem}-labels-idx1-ubyte", labels.astype(np.uint8))
    return folder


@cache
def hardest_first() -> NDArray[np.intp]:
    """Return the numbers of MNIST's test images, smallest margin of the reference checkpoint
    first."""
    model, record = load_model(REFERENCE)
    images = load_dataset("test").images
    margins = []
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            pixels = np.asarray(images[start : start + 500])
            top = model(torch.from_numpy(normalise(pixels, record.input))).topk(2, dim=1).values
            margins.append((top[:, 0] - top[:, 1]).numpy())
    return np.concatenate(margins).argsort(kind="stable")


def mnist_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `count` test images in a mixed order: three quarters have the smallest margins."""
    dataset, order = load_dataset("test"), hardest_first()
    hard = order[: count * 3 // 4]
    generator = np.random.default_rng(0)
    others = generator.choice(order[count * 3 // 4 :], count - len(hard), replace=False)
    rows = generator.permutation(np.concatenate([hard, others]))
    return np.asarray(dataset.images)[rows], dataset.labels[rows]


def mnist_bed(
    scratch: Path,
    images: int | None,
    *,
    name: str = "mnist",
    relabel: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda labels: labels,
) -> Bed:
    """Return the reference checkpoint on `images` test images, or on all of them."""
    test, train = load_dataset("test"), load_dataset("train")
    pixels, labels = (
        (np.asarray(test.images), test.labels) if images is None else mnist_images(images)
    )
    data = put_data(
        scratch / "data",
        (pixels, relabel(labels)),
        (np.asarray(train.images[:500]), train.labels[:500]),
    )
    return Bed(name=name, checkpoint=REFERENCE, data=data, folder=scratch)


def own_bed(
    name: str,
    scratch: Path,
    model: nn.Module,
    spec: ModelSpec,
    *,
    images: tuple[NDArray[np.uint8], NDArray[np.int64]],
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    classes: int,
) -> Bed:
    """Return a bed of another model; `spec` builds it again, and is trusted."""
    shape = images[0].shape[1:]
    record = Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name=name,
        model=spec,
        input=InputSpec(shape=shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0]),
        classes=classes,
        sha256="",
    )
    folder = scratch / "checkpoint"
    folder.mkdir(parents=True)
    save_checkpoint(folder, model, record)
    data = put_data(scratch / "data", images, train)
    return Bed(name=name, checkpoint=folder, data=data, folder=scratch, trusted=spec.factory)
