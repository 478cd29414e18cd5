"""The training state on disk: complete, or known to be damaged; the last two are kept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.errors import CheckpointError, OutputError, ToolkitWarning
from toolkit.schema import Epoch
from toolkit.training.processes import Processes
from toolkit.training.state import (
    Position,
    State,
    forget_states,
    has_state,
    put_tensors,
    read_state,
    refuse_to_forget,
    tensors_of,
    write_state,
)
from toolkit.training.step import make_step


def state(step: int) -> State:
    epoch = Epoch(number=1, loss=0.5, accuracy=0.9, images_per_s=100.0)
    position = Position(
        options={"seed": 3, "lr": 0.1, "recipe": "fast"},
        data={"train-images": "abc"},
        step=step,
        epochs=(epoch,),
        wall_s=1.5,
    )
    return State(position=position, tensors={"losses": torch.arange(step + 1.0)})


def test_state_round_trips_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    assert not has_state(tmp_path)
    for step in (0, 7, 1000):
        write_state(tmp_path, state(step))
    found = read_state(tmp_path)
    assert found is not None
    assert found.position == state(1000).position
    assert torch.equal(found.tensors["losses"], torch.arange(1001.0))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="interrupted after step 1000; continue it"):
        refuse_to_forget(tmp_path)
    (tmp_path / ".step-000000001.abc.safetensors.x.part").touch()  # left by a killed process
    forget_states(tmp_path)
    assert list(tmp_path.iterdir()) == []
    refuse_to_forget(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_state_is_reported_and_the_previous_one_used(tmp_path: Path, damage: str) -> None:
    write_state(tmp_path, state(5))
    write_state(tmp_path, state(9))
    last = max(tmp_path.iterdir())
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    damaged = {"flipped": content, "cut": content[:-9], "empty": bytearray()}
    last.write_bytes(damaged[damage])
    with pytest.warns(ToolkitWarning, match=f"{last.name} is damaged") as warned:
        found = read_state(tmp_path)
    assert found is not None
    assert found.position.step == 5
    assert "\n" not in str(warned[0].message)
    write_state(tmp_path, state(6))
    assert [path.name[:14] for path in sorted(tmp_path.iterdir())] == [
        *("step-000000005", "step-000000006")  # damaged states do not count as one of the two
    ]
    for path in tmp_path.iterdir():
        path.write_bytes(b"x")
    with (
        pytest.warns(ToolkitWarning),
        pytest.raises(CheckpointError, match="no complete training state; start again"),
    ):
        read_state(tmp_path)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    whole = state(3)
    write_state(tmp_path, State(
        position=replace(whole.position, schema_version=99), tensors=whole.tensors
    ))  # fmt: skip
    with pytest.raises(CheckpointError, match="this version cannot resume from this state"):
        read_state(tmp_path)
    forget_states(tmp_path)
    content = b"not safetensors"
    name = f"step-000000001.{hashlib.sha256(content).hexdigest()}.safetensors"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="start again with --force"):
        read_state(tmp_path)


@pytest.mark.parametrize("tuned", [True, False])
def test_resumed_weights_and_optimizer_match_an_uninterrupted_run(tuned: bool) -> None:
    """Also with channels_last, whose strides an optimizer's state must share."""

    def steps(count: int, model: ReferenceCNN, taken: dict[str, torch.Tensor]) -> None:
        step, optimizer = make_step(model, "cpu", 4, tuned=tuned, processes=Processes())
        if taken:
            put_tensors(taken, model, optimizer)
        for number in range(count):
            torch.manual_seed(number + 2 * bool(taken))
            step(torch.rand(4, 1, 28, 28), torch.arange(4), lr=0.01)
        taken.clear()
        taken |= tensors_of(model, optimizer)

    torch.manual_seed(0)
    start = ReferenceCNN().state_dict()
    ends = []
    for parts in ([4], [2, 2]):
        taken: dict[str, torch.Tensor] = {}
        for count in parts:
            model = ReferenceCNN()
            model.load_state_dict(start)
            steps(count, model, taken)
        ends.append(taken)
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
