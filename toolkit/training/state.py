"""The training state on disk, so that an interrupted training can be resumed.

In: the position of the training, and its tensors. Out: `step-<n>.<sha256>.safetensors` in the
checkpoint folder; the last two are kept. The name contains the checksum, so a damaged file is
detected.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError, OutputError, ToolkitWarning, headline
from toolkit.files import read_regular, write_atomically
from toolkit.schema import Epoch, from_json, to_json
from toolkit.timing import Stopwatch
from toolkit.training.optimizers import Kept, Optimizer

_KEPT = 2
_VERSION = 2
_NAME = re.compile(r"step-[0-9]+\.[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Position:
    """The position of a training: `step` steps are done, which took `wall_s` seconds in total.

    `data` maps the files of the training and test set to their checksums.
    """

    schema_version: int = _VERSION
    options: dict[str, int | float | str | bool]
    data: dict[str, str]
    step: int
    epochs: tuple[Epoch, ...]
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class State:
    """A position, and its tensors by name."""

    position: Position
    tensors: Mapping[str, Tensor]


def tensors_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return weights, buffers, and the optimizer's tensors of each parameter; copies on the CPU."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, kept in optimizer.kept().items():
        found |= {f"optimizer.{number}.{name}": value for name, value in kept.items()}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def put_tensors(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    """Restore the tensors of `tensors_of`, in the memory format of the model."""
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    kept: Kept = {}
    for number, parameter in enumerate(model.parameters()):
        prefix = f"optimizer.{number}."
        for name in (each for each in tensors if each.startswith(prefix)):
            value = tensors[name]
            if value.shape == parameter.shape:  # fused optimizers need the parameter's own strides
                value = torch.empty_like(parameter).copy_(value)
            kept.setdefault(number, {})[name.removeprefix(prefix)] = value
    optimizer.put(kept)


def write_state(folder: Path, state: State) -> None:
    """Write the state atomically. Keep the previous one and delete all others.

    Raises:
        OutputError: Not writable, or the disk is full; existing files are unchanged.
    """
    from safetensors.torch import save

    position = json.dumps(to_json(state.position), allow_nan=False)
    content = save(dict(state.tensors), metadata={"position": position})
    checksum = hashlib.sha256(content).hexdigest()
    write_atomically(folder / f"step-{state.position.step:09}.{checksum}.safetensors", content)
    later = [path for path in _states(folder) if _step(path) > state.position.step]
    for path in (*later, *_states(folder)[len(later) + _KEPT :]):
        path.unlink(missing_ok=True)


def read_state(folder: Path) -> State | None:
    """Return the last complete state; None if there is no state.

    Warns:
        ToolkitWarning: A state is damaged; the previous one is used.

    Raises:
        CheckpointError: No state is complete, or the last complete one comes from another version.
    """
    from safetensors import SafetensorError, safe_open

    for path in _states(folder):
        if _checksum_of(path, folder) != path.name.split(".")[1]:
            warnings.warn(
                f"{path} is damaged: its bytes do not match the checksum in its name; trying "
                "the previous state",
                ToolkitWarning,
                stacklevel=2,
            )
            continue
        try:
            with safe_open(path, framework="pt") as file:
                text = file.metadata()["position"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            position = from_json(Position, json.loads(text), version=_VERSION)
        except (SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: this version cannot resume from this state ({headline(error)}); start "
                "again with --force instead of --resume"
            ) from error
        return State(position=position, tensors=tensors)
    if has_state(folder):
        raise CheckpointError(
            f"{folder} contains no complete training state; start again with --force instead of "
            "--resume"
        )
    return None


class Keeper:
    """Writes the state of one training every `every_s` seconds, and counts the seconds."""

    def __init__(
        self,
        folder: Path,
        *,
        options: dict[str, int | float | str | bool],
        data: dict[str, str],
        every_s: float,
        before_s: float,
        writes: bool,
    ) -> None:
        self._folder = folder
        self._options = options
        self._data = data
        self._every_s = every_s
        self._before_s = before_s
        self._writes = writes
        self._begun = self._kept = Stopwatch()

    def position(self, step: int, epochs: Sequence[Epoch]) -> Position:
        """Return the current position of the training."""
        return Position(
            options=self._options,
            data=self._data,
            step=step,
            epochs=tuple(epochs),
            wall_s=self._before_s + self._begun.elapsed_s(),
        )

    def keep(self, snapshot: Callable[[], State]) -> None:
        """Write the result of `snapshot`, in the one process that writes."""
        if self._writes:
            write_state(self._folder, snapshot())
            self._kept = Stopwatch()

    def keep_if_due(self, snapshot: Callable[[], State]) -> None:
        """Write the state if it is time."""
        if self._kept.elapsed_s() > self._every_s:
            self.keep(snapshot)


def has_state(folder: Path) -> bool:
    """Return whether there is an interrupted training."""
    return bool(_states(folder))


def refuse_to_forget(folder: Path) -> None:
    """Raise OutputError if `folder` has the state of an interrupted training."""
    found = _states(folder)
    if found:
        raise OutputError(
            f"{folder} contains a training that was interrupted after step {_step(found[0])}; "
            "continue it with --resume, start again with --force, or choose another folder "
            "with --out"
        )


def forget_states(folder: Path) -> None:
    """Delete all states, and incomplete files of a killed process: the training is finished, or
    starts again."""
    for path in (*_states(folder), *folder.glob(".step-*.part")):
        path.unlink(missing_ok=True)
    for path in folder.glob(".part-*"):
        shutil.rmtree(path, ignore_errors=True)


def _checksum_of(path: Path, folder: Path) -> str:
    try:
        return hashlib.sha256(read_regular(path, within=folder)).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; remove it, or start again with "
            "--force instead of --resume"
        ) from error


def _step(path: Path) -> int:
    return int(path.name.split(".")[0].removeprefix("step-"))


def _states(folder: Path) -> list[Path]:
    """Return the states, the latest first."""
    found = folder.glob("step-*.*.safetensors")
    return sorted((each for each in found if _NAME.fullmatch(each.name)), reverse=True)
