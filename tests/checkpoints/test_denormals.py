"""Denormal weights are said, and can be set to zero."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import Cli
from torch import nn

from toolkit.artifacts.export import export
from toolkit.checkpoints import denormals
from toolkit.checkpoints.denormals import denormal_shares, flushed
from toolkit.checkpoints.import_weights import import_weights
from toolkit.checkpoints.storage import load_model, read_checkpoint
from toolkit.errors import ToolkitWarning
from toolkit.schema import InputSpec

SMALL = 1.17549435e-38  # the smallest normal float32
FACTORY = "test_denormals:small_net"
SPEC = InputSpec(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
SAYS = r"75 % of the values of 0\.weight are denormal \(subnormal.*--flush-denormals"


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def decayed_weights(folder: Path) -> Path:
    """Weights of which six of eight channels have decayed."""
    torch.manual_seed(0)
    state = small_net().state_dict()
    state["0.weight"][2:] = 1e-39
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    denormals._warn.cache_clear()


def test_values_below_the_normal_range_count() -> None:
    value = torch.tensor([0.0, SMALL, -SMALL, SMALL / 2, -1e-45, 1.0, -1.0, 1e-30])
    shares = denormal_shares({"w": value, "steps": torch.tensor([1]), "none": torch.ones(0)})
    assert shares == {"w": 0.25}
    assert flushed(value).tolist() == pytest.approx([0, SMALL, -SMALL, 0, 0, 1, -1, 1e-30])
    assert flushed(torch.tensor([1])).tolist() == [1]


def test_a_few_denormal_values_are_not_said() -> None:
    value = torch.ones(1000)
    value[:9] = 1e-40
    assert denormal_shares({"w": value}) == {}


def test_import_and_export_say_it_and_the_record_keeps_it(tmp_path: Path) -> None:
    path, out = decayed_weights(tmp_path), tmp_path / "out"
    with pytest.warns(ToolkitWarning, match=SAYS):
        import_weights(path, out=out, model=FACTORY, input_spec=SPEC, classes=10)
    assert read_checkpoint(out).denormals == {"0.weight": 0.75}
    denormals._warn.cache_clear()  # as in another process
    with pytest.warns(ToolkitWarning, match=SAYS):
        export(out, out=tmp_path / "exports", formats=["torchscript"], model=FACTORY)
    with warnings.catch_warnings():  # once per command
        warnings.simplefilter("error", ToolkitWarning)
        denormals.warn_of_denormals(read_checkpoint(out), out)


def test_denormal_weights_can_be_set_to_zero(tmp_path: Path) -> None:
    path, out = decayed_weights(tmp_path), tmp_path / "out"
    record = import_weights(
        path, out=out, model=FACTORY, input_spec=SPEC, classes=10, flush_denormals=True
    )
    assert record.denormals == {}
    weight = load_model(out, trusted=FACTORY)[0].state_dict()["0.weight"]
    assert int((weight[2:] == 0).sum()) == weight[2:].numel()
    assert int((weight[:2] == 0).sum()) == 0


def test_the_command_line_says_it_in_bench_and_verify(tmp_path: Path, cli: Cli) -> None:
    """Before anything runs: the folder has no such data set."""
    path, out = decayed_weights(tmp_path), tmp_path / "out"
    with pytest.warns(ToolkitWarning):
        import_weights(path, out=out, model=FACTORY, input_spec=SPEC, classes=10)
    export(out, out=tmp_path / "exports", formats=["torchscript"], model=FACTORY)
    for command in ("bench", "verify"):
        denormals._warn.cache_clear()
        done = cli(command, tmp_path / "exports", "--data", tmp_path / "none")
        assert done.exit_code == 2
        assert done.stderr.count("denormal (subnormal") == 1


def test_an_older_record_has_no_such_field(own_checkpoint: Path) -> None:
    path = own_checkpoint / "checkpoint.json"
    record = json.loads(path.read_text())
    record.pop("denormals", None)
    path.write_text(json.dumps(record))
    assert read_checkpoint(own_checkpoint).denormals == {}
