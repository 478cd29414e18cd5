"""Checkpoints on disk: a folder with `weights.safetensors` and `checkpoint.json`.

In: a folder. Out: the record, and the model with its weights. A checkpoint is data: nothing is
unpickled, and the only code that runs is the model factory that the user trusts; see
`toolkit.checkpoints.model`. torch is imported only to access weights, so a driver can read the
record without it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.checkpoints.weights import (
    check_finite,
    put_weights,
    read_safetensors,
    read_state_dict,
)
from toolkit.errors import ArtifactError, CheckpointError, OutputError, headline
from toolkit.files import (
    open_regular,
    publish,
    read_json,
    refuse_large,
    scratch_folder,
    sha256_of,
    sha256_of_open,
    write_atomically,
    write_json,
)
from toolkit.files.locks import locked_folder
from toolkit.packages import versions_of
from toolkit.paths import StrPath, as_path
from toolkit.schema import (
    CHECKPOINT_SCHEMA_VERSION,
    Checkpoint,
    CheckpointId,
    InputSpec,
    ModelSpec,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
RECORD = "checkpoint.json"
_MOST_VALUES = 1 << 28  # of one image, 1 GiB as float32: more is a mistake, or an attack


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check `checkpoint.json`; the weights must match the checksum in it.

    Raises:
        CheckpointError: Missing, not JSON, fields missing, or weights that do not match.
    """
    record_path, weights_path = folder / RECORD, folder / WEIGHTS
    try:
        _check_is_there(folder)
        data = read_json(record_path, within=folder)
        record = from_json(Checkpoint, data, version=CHECKPOINT_SCHEMA_VERSION)
    except OSError as error:
        raise CheckpointError(f"cannot read {record_path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{record_path}: not a checkpoint record: {error}") from error
    _check_input_spec(record.input, record_path)
    try:
        refuse_large(weights_path, within=folder)
        with open_regular(weights_path, within=folder) as file:
            found = sha256_of_open(file)
    except OSError as error:
        raise CheckpointError(f"cannot read {weights_path}: {error.strerror or error}") from error
    if found != record.sha256:
        raise CheckpointError(
            f"{weights_path}: sha256 {found}, but {RECORD} records {record.sha256}; one of the "
            "two was damaged, or replaced without the other: restore both, or create the "
            "checkpoint again with toolkit train or toolkit import, and --force"
        )
    return record


def _check_is_there(folder: Path) -> None:
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, expected a checkpoint folder with {WEIGHTS} and {RECORD}; "
            "create one from a state_dict with: toolkit import FILE --model "
            "package.module:function"
        )
    for path in (folder / RECORD, folder / WEIGHTS):
        if not path.exists():
            raise CheckpointError(
                f"no {path}; expected a checkpoint folder with {WEIGHTS} and {RECORD}: create "
                "one with toolkit train or toolkit import"
            )


def load_model(
    folder: Path, *, trusted: str | None = None, record: Checkpoint | None = None
) -> tuple[nn.Module, Checkpoint]:
    """Return the model in eval mode on the CPU, with its weights loaded and checked, and its
    record.

    Args:
        folder: Checkpoint folder.
        trusted: The model factory that may be called.
        record: The record, if this process has read and checked it before.

    Raises:
        CheckpointError: As for `read_checkpoint`; weights that are missing, unexpected, of another
            shape, NaN or infinite; a model factory that is not trusted.
    """
    from toolkit.checkpoints.model import build_model

    record = record or read_checkpoint(folder)
    model = build_model(record.model, trusted=trusted)
    state = read_safetensors(folder / WEIGHTS, within=folder)
    put_weights(model, state, where=str(folder / WEIGHTS))
    return model.eval(), record


def load_same_model(folder: Path, expected: CheckpointId, *, trusted: str | None) -> nn.Module:
    """Return the model of `load_model` if the folder still holds the expected checkpoint.

    Raises:
        CheckpointError: As for `load_model`.
        ArtifactError: The folder holds another checkpoint.
    """
    model, record = load_model(folder, trusted=trusted)
    if record.id != expected:
        raise ArtifactError(
            f"{folder}: checkpoint {record.id}, expected {expected}; it was replaced while this "
            "command ran: start again"
        )
    return model


def save_checkpoint(folder: StrPath, model: nn.Module, record: Checkpoint) -> Checkpoint:
    """Write weights and record. Return the record with the checksum of the weights and the
    versions.

    Raises:
        OutputError: Not writable, or the disk is full.
        CheckpointError: Weights are NaN or infinite.
    """
    from safetensors.torch import save

    folder = as_path(folder)
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    check_finite(state, where=record.name)
    with scratch_folder(folder) as scratch:
        weights = scratch / WEIGHTS
        write_atomically(weights, save(state))
        record = replace(
            record,
            sha256=sha256_of(weights),
            versions=versions_of("toolkit", "torch", "torchvision", "safetensors"),
        )
        write_json(scratch / RECORD, to_json(record))
        publish(weights, folder / WEIGHTS)  # both files are written; only two renames are left
        publish(scratch / RECORD, folder / RECORD)
    return record


def refuse_to_replace(folder: Path, *, force: bool) -> None:
    """Raise OutputError if `folder` already holds a checkpoint and `force` is not set."""
    if not force and (folder / RECORD).exists():
        raise OutputError(
            f"{folder} already holds a checkpoint; choose another folder with --out, "
            "or replace it with --force"
        )


def import_weights(
    weights: StrPath,
    *,
    out: StrPath,
    model: ModelSpec,
    input_spec: InputSpec,
    classes: int,
    force: bool = False,
) -> Checkpoint:
    """Create a checkpoint from a user's `state_dict` file and the factory of its model.

    `weights` is a `.safetensors` file, or a file that `torch.save(model.state_dict())` wrote. The
    latter is read with `weights_only=True`, so nothing in it can run. The model is tried on one
    batch of two images: it must return `[2, classes]`. Naming a factory here means to trust it, so
    it is recorded in the trust store, and later commands need not be told again.

    Raises:
        CheckpointError: The file is refused or does not fit the model.
    """
    from toolkit.checkpoints.model import build_model
    from toolkit.trust_store.factories import REFERENCE_FACTORY, factory_program, make_importable
    from toolkit.trust_store.store import trust_store

    weights, out = as_path(weights, "weights"), as_path(out, "out")
    refuse_to_replace(out, force=force)
    _check_input_spec(input_spec, weights)
    if classes < 2:
        raise CheckpointError(f"--classes {classes}: expected 2 or more")
    program = None if model.factory == REFERENCE_FACTORY else factory_program(model)
    if program is not None:
        make_importable(program)
    module = build_model(model, trusted=model.factory).eval()
    put_weights(module, read_state_dict(weights), where=str(weights))
    _try_model(module, input_spec, classes, factory=model.factory)
    record = Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name=out.resolve().name,
        model=model,
        input=input_spec,
        classes=classes,
        sha256="",
    )
    with locked_folder(out):
        refuse_to_replace(out, force=force)  # another command may have written it by now
        saved = save_checkpoint(out, module, record)
    if program is not None:
        trust_store().remember([program], command="import")
    return saved


def _try_model(module: nn.Module, spec: InputSpec, classes: int, *, factory: str) -> None:
    import torch

    from toolkit.checkpoints.model import example_input

    with torch.inference_mode():
        try:
            logits = module(example_input(spec.shape, batch_size=2))
        except Exception as error:  # the user's code may raise anything
            raise CheckpointError(
                f"{factory} does not run on an input of shape {[2, *spec.shape]}: "
                f"{headline(error)}; correct --input-shape"
            ) from error
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise CheckpointError(
            f"{factory} returned {shape} for 2 images, expected logits [2, {classes}]; "
            "correct --classes, or wrap the model so that it returns logits [N, K]"
        )


def _check_input_spec(spec: InputSpec, where: Path) -> None:
    if not spec.shape:
        raise CheckpointError(f"{where}: input shape [], expected the shape of one sample")
    channels = spec.shape[0]
    if math.prod(spec.shape) > _MOST_VALUES:
        raise CheckpointError(
            f"{where}: input shape {list(spec.shape)} has more than {_MOST_VALUES:,} values; "
            "expected [channels, height, width] of one image: correct --input-shape"
        )
    if min(spec.shape) < 1 or len(spec.mean) != channels or len(spec.std) != channels:
        raise CheckpointError(
            f"{where}: input spec has shape {list(spec.shape)}, mean {list(spec.mean)} and std "
            f"{list(spec.std)}; expected positive sizes, and one mean and std per channel"
        )
    if not all(value > 0 for value in spec.std) or any(
        not abs(value) < float("inf") for value in (*spec.mean, *spec.std)
    ):
        raise CheckpointError(f"{where}: std {list(spec.std)} must be finite and above 0")
