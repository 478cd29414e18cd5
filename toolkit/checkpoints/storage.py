"""Checkpoints on disk: a folder with `weights.safetensors` and `checkpoint.json`.

In: a folder. Out: the record, and the model with its weights. A checkpoint is data: nothing is
unpickled, and the only code that runs is the model factory that the user trusts; see
`toolkit.checkpoints.model`. torch is imported only to access weights, so a driver can read the
record without it.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.checkpoints.denormals import denormal_shares
from toolkit.checkpoints.input_spec import check_input_spec
from toolkit.checkpoints.weight_files import (
    EXTRA_STATE,
    is_tensor,
    pack_safetensors,
    read_safetensors,
    tensors_in,
)
from toolkit.checkpoints.weights import check_finite, put_weights
from toolkit.errors import ArtifactError, CheckpointError, OutputError
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
from toolkit.files.paths import StrPath, as_path
from toolkit.packages import versions_of
from toolkit.schema import (
    CHECKPOINT_SCHEMA_VERSION,
    Checkpoint,
    CheckpointId,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
RECORD = "checkpoint.json"


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
    check_input_spec(record.input, record_path)
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
    record. It maps float32 `[N,...]` to logits `[N,K]`.

    Args:
        folder: Checkpoint folder.
        trusted: The model factory that may be called.
        record: The record, if this process has read and checked it before.

    Raises:
        CheckpointError: As for `read_checkpoint`; weights that are missing, unexpected, of another
            shape, NaN or infinite; a model factory that is not trusted.
    """
    from toolkit.checkpoints.model import build_model, example_input
    from toolkit.checkpoints.outputs import with_chosen_output
    from toolkit.checkpoints.plain import (
        creates_weights,
        first_call,
        in_eval,
        with_plain_weights,
    )

    record = record or read_checkpoint(folder)
    model = build_model(record.model, trusted=trusted)
    state = read_safetensors(folder / WEIGHTS, within=folder)
    example = functools.partial(example_input, record.input.shape, batch_size=2)
    first_call(model, example)
    model = with_plain_weights(model).module
    if not state.keys() <= model.state_dict().keys():
        creates_weights(model, example)
    put_weights(model, state, where=str(folder / WEIGHTS))
    return in_eval(with_chosen_output(model, record.model)), record


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
    from toolkit.checkpoints.outputs import without_chosen_output

    folder = as_path(folder)
    state = {
        name: value.detach().cpu().contiguous().clone() if is_tensor(value) else value
        for name, value in without_chosen_output(model).state_dict().items()
        if is_tensor(value) or name.endswith(EXTRA_STATE)
    }
    tensors = tensors_in(state)
    check_finite(tensors, where=record.name)
    record = replace(record, denormals=denormal_shares(tensors))
    with scratch_folder(folder) as scratch:
        weights = scratch / WEIGHTS
        write_atomically(weights, pack_safetensors(state))
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
