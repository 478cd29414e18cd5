"""Training: dataset → checkpoint; start reading with `loop`.

The recipe says how to train, the order which images to use, the feed delivers them, the step
computes, and the state resumes an interrupted training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.checkpoints.storage import RECORD, read_checkpoint, refuse_to_replace, save_checkpoint
from toolkit.data import Dataset, load_dataset
from toolkit.data.statistics import mean_and_std
from toolkit.errors import DatasetError, SettingError
from toolkit.files.locks import locked_folder
from toolkit.files.paths import StrPath, as_path, optional_path
from toolkit.machine.allocator import kept_memory
from toolkit.machine.environment import usable_cores
from toolkit.machine.threads import check_threads
from toolkit.report.progress import Progress, silent
from toolkit.schema import (
    CHECKPOINT_SCHEMA_VERSION,
    Checkpoint,
    Device,
    InputSpec,
    ModelSpec,
    TrainingRecord,
)
from toolkit.settings import check_positive
from toolkit.training.generators import callers_generators_kept
from toolkit.training.loop import Job, evaluate, fit
from toolkit.training.processes import joined
from toolkit.training.recipe import choose_options, find_recipe
from toolkit.training.state import (
    Keeper,
    Position,
    State,
    forget_states,
    read_state,
    refuse_to_forget,
)
from toolkit.training.warmup import libraries_loaded_meanwhile
from toolkit.trust_store.factories import REFERENCE_FACTORY

__all__ = ["evaluate", "train"]


def train(
    *,
    out: StrPath,
    recipe: str | None = None,
    data: StrPath | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    augment: bool | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    limit: int | None = None,
    save_every_s: float = 10.0,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Checkpoint:
    """Train the reference CNN and write a checkpoint folder.

    The recipe sets the options that are None. Under torchrun, all processes share each batch, and
    the first process writes.

    Args:
        out: Checkpoint folder to write; existing content is kept unless `force` is set.
        recipe: `fast` (None means this); `plain`, which trains like a typical script and serves as
            a comparison; or `plain-workers`, the same with worker processes that read the images.
        data: The data set; None is the bundled MNIST.
        epochs: Passes over the training set; 1.5 ends halfway through the second.
        batch_size: Images per optimizer step, over all processes.
        lr: Adam's learning rate; the peak if the recipe varies it.
        seed: Random seed; None is 1. The same seed, machine and number of threads give the same
            weights.
        augment: Rotate, shift and zoom each training image slightly.
        device: `auto` uses CUDA if available.
        threads: CPU threads of each process; None divides all usable cores among the processes.
        limit: Number of training images to use, from the first; None is all.
        save_every_s: Seconds between saves of the training state.
        resume: Continue the interrupted training in `out` with its options. If there is none,
            start one. If the training was finished, return its checkpoint.
        force: Replace the checkpoint or the training state in `out`.
        progress: Receives the progress of epochs and steps.

    Returns:
        The checkpoint's record, with test accuracy as a fraction.

    Raises:
        SettingError: A setting is out of range, CUDA is requested but missing, there is not enough
            memory, or a loss is not finite.
        DatasetError: The data is missing, damaged, or not the data of the interrupted training.
        OutputError: `out` is not writable, already holds a checkpoint or a training state, or
            another command writes to it.
    """
    out, data = as_path(out, "out"), optional_path(data, "data")
    check_positive("--save-every", save_every_s)
    if resume and force:
        raise SettingError("--resume continues and --force starts again: use only one of them")
    state = read_state(out) if resume else None
    chosen = _choose_device(
        str(state.position.options["device"]) if state and device == "auto" else device
    )
    given = {
        **{"recipe": recipe, "epochs": epochs, "batch_size": batch_size, "lr": lr},
        **{"seed": seed, "augment": augment, "threads": threads, "limit": limit},
    }
    with joined(chosen) as processes:
        given["device"] = None if device == "auto" else chosen
        given["processes"] = processes.count
        own_threads = _own_cores() if threads is None else check_threads(threads)
        own = {"device": chosen, "threads": own_threads}
        if resume and state is None and (out / RECORD).exists():
            return _finished(out, data, given, own)
        check = partial(_refuse_to_lose, out, resume=resume, force=force)
        check()
        options = choose_options(given, own, state.position.options if state else None)
        with libraries_loaded_meanwhile(options):
            training, test, sha256 = _load(data, state, progress)
            checkpoint = _untrained(out, training, test)
        job = Job(
            checkpoint=checkpoint,
            training=training.head(options.limit) if options.limit else training,
            test=test,
            options=options,
            processes=processes,
        )
        keeper = Keeper(
            out,
            options=options.record(),
            data=sha256,
            every_s=save_every_s,
            before_s=state.position.wall_s if state else 0.0,
            writes=processes.writes,
        )
        return _carry_out(job, keeper, out, check=check, state=state, progress=progress)


def _refuse_to_lose(out: Path, *, resume: bool, force: bool) -> None:
    """Raise OutputError if `out` holds a checkpoint or a state that this training would replace."""
    if not resume:
        refuse_to_replace(out, force=force)
    if not (resume or force):
        refuse_to_forget(out)


def _carry_out(
    job: Job,
    keeper: Keeper,
    out: Path,
    *,
    check: Callable[[], None],
    state: State | None,
    progress: Progress,
) -> Checkpoint:
    """Train, write the checkpoint, and delete the states. `check` refuses to replace others'."""
    processes = job.processes
    processes.wait()  # no process writes before all have looked
    torch.set_num_threads(job.options.threads)
    tuned = find_recipe(job.options.recipe).tuned
    with (
        locked_folder(out) if processes.writes else nullcontext(),
        callers_generators_kept(job.options.device),
        _reproducible(),
        kept_memory() if tuned else nullcontext(),
    ):
        if processes.writes:
            check()  # another command may have written there in the meantime
            if state is None:
                forget_states(out)
        model, end = fit(
            job, keeper, state=state, progress=progress if processes.writes else silent
        )
        if processes.writes:
            save_checkpoint(out, model, replace(job.checkpoint, training=_record(job, end)))
            forget_states(out)
    processes.wait()
    return read_checkpoint(out)


def _finished(
    out: Path, data: Path | None, given: Mapping[str, Any], own: Mapping[str, Any]
) -> Checkpoint:
    """Return the checkpoint of a finished training: nothing is left to do.

    Raises:
        OutputError: It is not the requested training.
        DatasetError: It used other data.
    """
    found = read_checkpoint(out)
    if found.training is None:
        refuse_to_replace(out, force=False)
    else:
        choose_options(given, own, found.training.options)
        training = load_dataset("train", data)
        _check_same_data(found.training.dataset.sha256, training.record.sha256)
    return found


def _load(
    data: Path | None, state: State | None, progress: Progress
) -> tuple[Dataset, Dataset, dict[str, str]]:
    """Return the training set, the test set, and the checksums of their files.

    Raises:
        DatasetError: Missing or damaged, the same images in both, or not the data of the
            interrupted training.
    """
    training = load_dataset("train", data, progress=progress)
    test = load_dataset("test", data, progress=progress)
    _refuse_same_images(training, test)
    sha256 = {**training.record.sha256, **test.record.sha256}
    _check_same_data(state.position.data if state else sha256, sha256)
    return training, test, sha256


def _refuse_same_images(training: Dataset, test: Dataset) -> None:
    """Raise DatasetError if a data set without splits was read as both of them."""
    if {*training.record.sha256.items()} & {*test.record.sha256.items()}:
        raise DatasetError(
            f"data set {training.record.name} has no splits: its accuracy on the images that it "
            "was trained on shows nothing; put them into train/ and test/"
        )


def _check_same_data(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise DatasetError unless the files are those from the start of the training."""
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if other:
        raise DatasetError(
            "--resume: the data differs from the data at the start of the training "
            f"({', '.join(other)}); give the original data with --data, or start again with "
            "--force instead of --resume"
        )


def _reproducible() -> AbstractContextManager[None]:
    """Restrict cuDNN to deterministic algorithms."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=True)


def _record(job: Job, end: Position) -> TrainingRecord:
    return TrainingRecord(
        options=job.options.record(),
        epochs=end.epochs,
        accuracy=end.epochs[-1].accuracy or 0.0,  # it is always measured after the last epoch
        dataset=job.training.record,
        wall_s=end.wall_s,
    )


def _own_cores() -> int:
    """Return the cores of this process, among those that torchrun started on this machine."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _untrained(out: Path, training: Dataset, test: Dataset) -> Checkpoint:
    """Return the record of a checkpoint for this data; mean and std come from the training set."""
    shape = training.images.shape[1:]
    if test.images.shape[1:] != shape or min(shape[1:]) < 6:
        raise DatasetError(
            f"training images have shape {list(shape)}, test images "
            f"{list(test.images.shape[1:])}; the reference CNN needs equal shapes of at least "
            "6x6 pixels"
        )
    channels, height, width = (int(size) for size in shape)
    classes = max(training.classes, test.classes)
    mean, std = mean_and_std(training.images)
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
        class_names=training.class_names,
        sha256="",
    )


def _choose_device(device: str) -> Device:
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"--device {device}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device here; use --device "
            "cpu, or --device auto to use CUDA if available"
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
