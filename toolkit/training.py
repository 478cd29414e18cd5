"""Training: dataset → checkpoint, by the plain recipe.

3 epochs, Adam, lr 0.001, batches of 100, shuffled, cross entropy: what the plain PyTorch script
does, on whole arrays instead of a per-image loader.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn

from toolkit.checkpoint import refuse_to_replace, save_checkpoint
from toolkit.data import Dataset, load_dataset
from toolkit.errors import DatasetError, SettingError
from toolkit.files import make_folder
from toolkit.model import REFERENCE_FACTORY, build_model
from toolkit.preprocessing import normalise
from toolkit.progress import Progress, silent
from toolkit.schema import (
    CHECKPOINT_SCHEMA_VERSION,
    Checkpoint,
    Device,
    Epoch,
    InputSpec,
    ModelSpec,
    TrainingRecord,
)
from toolkit.settings import check_batch_size, check_positive, check_seed, check_threads
from toolkit.timing import Stopwatch

_EVALUATION_BATCH_SIZE = 1000
Augmentation = Callable[[Tensor], Tensor]


def train(
    *,
    out: Path,
    data: Path | None = None,
    epochs: int = 3,
    batch_size: int = 100,
    lr: float = 0.001,
    seed: int = 1,
    augment: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Checkpoint:
    """Train the reference CNN and write a checkpoint folder.

    Args:
        out: Checkpoint folder to write; an existing checkpoint is kept unless `force`.
        data: Folder of IDX files; None is the bundled MNIST.
        epochs: Passes over the training set.
        batch_size: Images an optimizer step.
        lr: Adam's learning rate.
        seed: Same seed, same machine, same threads: the same weights.
        augment: Small random rotations and shifts of each training image.
        device: `auto` takes CUDA where there is one.
        threads: CPU threads; None takes all usable cores.
        limit: Train on the first so many images only.
        force: Replace a checkpoint that is already in `out`.
        progress: Told about epochs and batches.

    Returns:
        The checkpoint's record, with test accuracy as a fraction.

    Raises:
        SettingError: a setting out of range, CUDA asked for and missing, or a loss not finite.
        DatasetError: data missing or damaged.
        OutputError: `out` is not writable, or already holds a checkpoint.
    """
    check_positive("--epochs", epochs)
    check_batch_size(batch_size)
    check_positive("--lr", lr, most=math.inf)
    check_seed(seed)
    options: dict[str, int | float | str | bool] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "augment": augment,
        "device": _choose_device(device),
        "threads": check_threads(threads),
    }
    refuse_to_replace(out, force=force)
    training, test = load_dataset("train", data), load_dataset("test", data)
    checkpoint = _untrained(out, training, test)
    make_folder(out)
    training = training if limit is None else training.head(limit)
    torch.set_num_threads(check_threads(threads))
    watch = Stopwatch()
    with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        model, record = _fit(checkpoint, training, test, options, progress)
    trained = TrainingRecord(
        options=options,
        epochs=record,
        accuracy=record[-1].accuracy,
        dataset=training.record,
        wall_s=watch.elapsed_s(),
    )
    return save_checkpoint(out, model, replace(checkpoint, training=trained))


def evaluate(model: nn.Module, dataset: Dataset, spec: InputSpec, device: str) -> float:
    """Share of images that the model, in eval mode, classifies as labelled."""
    model.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(dataset), _EVALUATION_BATCH_SIZE):
            stop = start + _EVALUATION_BATCH_SIZE
            images = torch.from_numpy(normalise(dataset.images[start:stop], spec)).to(device)
            labels = torch.from_numpy(dataset.labels[start:stop]).to(device)
            correct += int((model(images).argmax(1) == labels).sum())
    return correct / len(dataset)


def _fit(
    checkpoint: Checkpoint,
    training: Dataset,
    test: Dataset,
    options: dict[str, int | float | str | bool],
    progress: Progress,
) -> tuple[nn.Module, tuple[Epoch, ...]]:
    torch.manual_seed(int(options["seed"]))
    device = str(options["device"])
    model = build_model(checkpoint.model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(options["lr"]))
    augmentation = _small_moves() if options["augment"] else None
    epochs: list[Epoch] = []
    progress("epochs", 0, int(options["epochs"]))
    for number in range(1, int(options["epochs"]) + 1):
        watch = Stopwatch()
        loss, seen = 0.0, 0
        batches = torch.split(torch.randperm(len(training)), int(options["batch_size"]))
        model.train()
        for step, batch in enumerate(batches, start=1):
            rows = np.sort(batch.numpy())  # sorted: a mapped file is read forward
            images = torch.from_numpy(normalise(training.images[rows], checkpoint.input))
            if augmentation is not None:
                images = torch.stack([augmentation(image) for image in images])
            labels = torch.from_numpy(training.labels[rows])
            loss += len(rows) * _step(model, optimizer, images.to(device), labels.to(device))
            if not math.isfinite(loss):
                raise SettingError(
                    f"the loss became {loss} in epoch {number}, batch {step} of {len(batches)}, "
                    f"at lr {options['lr']}; try a smaller --lr"
                )
            seen += len(rows)
            note = f"loss {loss / seen:.4f}, {seen / watch.elapsed_s():,.0f} images/s"
            progress(f"epoch {number}", step, len(batches), note)
        rate = len(training) / watch.elapsed_s()
        accuracy = evaluate(model, test, checkpoint.input, device)
        mean_loss = loss / len(training)
        epochs.append(Epoch(number=number, loss=mean_loss, accuracy=accuracy, images_per_s=rate))
        progress("epochs", number, int(options["epochs"]), f"test accuracy {accuracy:.2%}")
    return model, tuple(epochs)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    """One optimizer step; the batch's mean cross entropy."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _untrained(out: Path, training: Dataset, test: Dataset) -> Checkpoint:
    """The record of a checkpoint for this data; mean and std are the training set's own."""
    shape = training.images.shape[1:]
    if test.images.shape[1:] != shape or min(shape[1:]) < 6:
        raise DatasetError(
            f"training images have shape {list(shape)}, test images {list(test.images.shape[1:])}; "
            "the reference CNN needs both the same and at least 6x6 pixels"
        )
    channels, height, width = (int(size) for size in shape)
    classes = max(training.classes, test.classes)
    mean, std = _channel_statistics(training)
    arguments: dict[str, int | float | str | bool] = {
        "channels": channels,
        "height": height,
        "width": width,
        "classes": classes,
    }
    return Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name=out.resolve().name,
        model=ModelSpec(factory=REFERENCE_FACTORY, arguments=arguments),
        input=InputSpec(shape=(channels, height, width), mean=mean, std=std),
        classes=classes,
        sha256="",
    )


def _channel_statistics(training: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of the pixels scaled to 0..1, to four digits.

    MNIST's are 0.1307 and 0.3081.
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(training.images.shape[1]):
        counts = np.bincount(training.images[:, channel].reshape(-1), minlength=256)
        share = counts / counts.sum()
        mean.append(round(float(share @ levels), 4))
        std.append(round(math.sqrt(float(share @ (levels - share @ levels) ** 2)), 4) or 1.0)
    return tuple(mean), tuple(std)


def _choose_device(device: str) -> Device:
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"--device {device}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device here; "
            "use --device cpu, or --device auto to take CUDA where there is one"
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _small_moves() -> Augmentation:
    """Rotations up to 10 degrees, shifts up to a tenth; applied to one image `[C,H,W]` at a time,
    because v2 transforms give a whole batch the same move."""
    from torchvision.transforms import InterpolationMode, v2

    moves: Augmentation = v2.RandomAffine(
        degrees=10, translate=(0.1, 0.1), interpolation=InterpolationMode.BILINEAR
    )
    return moves
