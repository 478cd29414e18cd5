"""A small checkpoint and its images: the reference CNN on images of 12 x 12 pixels.

Its files are a tenth of the real ones, so that more of a random change hits their structure.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import CHECKPOINT_SCHEMA_VERSION, Checkpoint, InputSpec, ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY

SHAPE = (1, 12, 12)
CLASSES = 10


def write_checkpoint(folder: Path) -> Checkpoint:
    """Write a checkpoint with random weights, the same ones each time."""
    import torch

    from toolkit.checkpoints.model import build_model
    from toolkit.checkpoints.storage import save_checkpoint

    spec = ModelSpec(factory=REFERENCE_FACTORY, arguments={"height": SHAPE[1], "width": SHAPE[2]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(spec)
    folder.mkdir(parents=True, exist_ok=True)
    record = Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name="small",
        model=spec,
        input=InputSpec(shape=SHAPE, mean=(0.1307,), std=(0.3081,)),
        classes=CLASSES,
        sha256="",
    )
    return save_checkpoint(folder, model, record)


def write_data(folder: Path, count: int) -> Path:
    """Write test and training images of MNIST, every other pixel of their middle, as IDX files."""
    from toolkit.data import load_dataset

    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset("test")
    images = np.ascontiguousarray(np.asarray(dataset.images[:count])[:, 0, 2:26:2, 2:26:2])
    labels = dataset.labels[:count].astype(np.uint8)
    for stem in ("t10k", "train"):
        _put_idx(folder / f"{stem}-images-idx3-ubyte", images)
        _put_idx(folder / f"{stem}-labels-idx1-ubyte", labels)
    return folder


def _put_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())
