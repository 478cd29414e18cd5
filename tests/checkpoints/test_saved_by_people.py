"""Files of weights as people save them: taken, saying what was done, or refused by name."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from toolkit.checkpoints.import_weights import import_weights
from toolkit.checkpoints.storage import load_model
from toolkit.checkpoints.weight_files import pack_safetensors, read_safetensors, read_saved
from toolkit.errors import CheckpointError, ToolkitWarning
from toolkit.schema import InputSpec, ModelSpec

SPEC = InputSpec(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


class Net(nn.Module):
    """A small network with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits


def lazy_net() -> nn.Module:
    """A network whose weights are created by its first call."""
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


class HomeMadeLazyNet(nn.Module):
    """A network that creates a layer in its first call, without torch's lazy modules."""

    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Linear | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.head is None:
            self.head = nn.Linear(x[0].numel(), 10)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class TiedNet(nn.Module):
    """Two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(192, 192), nn.Linear(192, 192)
        self.b.weight = self.a.weight
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.b(self.a(x.flatten(1)).relu()).relu())
        return logits


class ExtraNet(Net):
    """A network with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.version: Any = {"version": 1}

    def get_extra_state(self) -> Any:
        return self.version

    def set_extra_state(self, state: Any) -> None:
        self.version = state


class VersionedNet(Net):
    """A network that refuses weights without a version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any
    ) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError("no version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


torch.manual_seed(0)
NET = Net().eval()
STATE = NET.state_dict()


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def take(
    folder: Path, content: Any, *, factory: str = "Net", save: Any = torch.save, **options: Any
) -> tuple[nn.Module, list[str]]:
    """Import what is saved into a file. Return the model and the warnings."""
    path = folder / "weights.pt"
    if content is not None:
        save(content, path)
    factory = f"test_saved_by_people:{factory}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ToolkitWarning)
        import_weights(
            path,
            out=folder / "out",
            model=ModelSpec(factory=factory),
            input_spec=SPEC,
            classes=10,
            **options,
        )
    said = [str(each.message) for each in caught if each.category is ToolkitWarning]
    return load_model(folder / "out", trusted=factory)[0], said


def assert_same_logits(one: nn.Module, other: nn.Module) -> None:
    images = torch.randn(4, *SPEC.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(one(images), other(images))


class Settings(dict[str, Any]):
    """Like Lightning's AttributeDict: a dictionary of a class that torch.load refuses."""


LIGHTNING = {
    "epoch": 9,
    "pytorch-lightning_version": "2.4.0",
    "state_dict": prefixed("model."),
    "hyper_parameters": Settings(lr=0.1, options=argparse.Namespace(path=Path("x"))),
    "best": np.float64(0.5),
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
}
TAKEN: dict[str, tuple[Any, str]] = {
    "DataParallel": (prefixed("module."), r"the prefix 'module\.' was removed"),
    "torch.compile": (prefixed("_orig_mod."), r"the prefix '_orig_mod\.' was removed"),
    "both": (prefixed("_orig_mod.module."), r"the prefix '_orig_mod\.module\.' was removed"),
    "a compiled part": (
        {name.replace("norm.", "norm._orig_mod."): value for name, value in STATE.items()},
        r"parts of names that wrappers add .* were removed",
    ),
    "state_dict": ({"epoch": 3, "state_dict": STATE}, "under the key 'state_dict'"),
    "model": ({"model": STATE, "epoch": 2}, "under the key 'model'"),
    "nested": ({"net": {"weights": STATE}}, r"under the key 'net\.weights'"),
    "beside an optimiser": (
        {"model_state_dict": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}},
        "under the key 'model_state_dict'",
    ),
    "Lightning": (LIGHTNING, r"key 'state_dict' .*; the prefix 'model\.' was removed"),
    "averaged": (
        {"n_averaged": torch.tensor(5), **prefixed("module.")},
        r"the prefix 'module\.' .*; left out: n_averaged",
    ),
    "thop": (
        {**STATE, "total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1)},
        r"left out: total_ops, conv\.total_params",
    ),
    "old BatchNorm": (
        {name: value for name, value in STATE.items() if "batches" not in name},
        "1 num_batches_tracked of BatchNorm are not in it",
    ),
    "old BatchNorm in DataParallel": (
        prefixed("module.", {n: v for n, v in STATE.items() if "batches" not in n}),
        r"the prefix 'module\.'",
    ),
    "an epoch among the weights": ({**STATE, "epoch": 3}, ""),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_weights_in_wrappings_are_taken_and_the_warning_says_so(tmp_path: Path, kind: str) -> None:
    content, says = TAKEN[kind]
    model, said = take(tmp_path, content)
    assert_same_logits(model, NET)
    assert (re.search(says, " ".join(said)) is not None) if says else not said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_kept_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in STATE.items()}
    model, said = take(tmp_path, state)
    assert torch.equal(model.state_dict()["head.bias"], state["head.bias"].float())
    assert f"{str(dtype).removeprefix('torch.')} weights are kept as float32" in said[0]


def test_plain_weights_are_taken_without_a_word(tmp_path: Path) -> None:
    model, said = take(tmp_path, STATE)
    assert_same_logits(model, NET)
    assert said == []


def test_safetensors_are_recognised_whatever_their_name(tmp_path: Path) -> None:
    model, _ = take(tmp_path, STATE, save=save_file)
    assert_same_logits(model, NET)


@pytest.mark.parametrize("factory", ["lazy_net", "HomeMadeLazyNet"])
def test_lazy_modules_are_created_by_a_first_call(tmp_path: Path, factory: str) -> None:
    lazy = globals()[factory]()
    lazy(torch.zeros(1, *SPEC.shape))
    model, said = take(tmp_path, lazy.state_dict(), factory=factory)
    assert_same_logits(model, lazy)
    assert said == []


def test_lazy_modules_and_a_wrong_input_shape_name_the_option(tmp_path: Path) -> None:
    lazy = lazy_net()
    lazy(torch.zeros(1, *SPEC.shape))
    torch.save(lazy.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"does not run on .* to create its weights.*--input"):
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model="test_saved_by_people:lazy_net",
            input_spec=InputSpec(shape=(3, 1, 1), mean=(0.5,) * 3, std=(0.5,) * 3),
            classes=10,
        )


def test_tied_weights_that_are_stored_once_are_filled_in(tmp_path: Path) -> None:
    tied = TiedNet()
    model, said = take(tmp_path, tied, factory="TiedNet", save=lambda m, p: save_model(m, str(p)))
    assert_same_logits(model, tied)
    assert "b.weight is the same tensor as a.weight" in said[0]


def test_tied_weights_with_different_values_are_refused(tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in TiedNet().state_dict().items()}
    state["b.weight"] += 1
    with pytest.raises(CheckpointError, match=r"a\.weight and b\.weight have different values"):
        take(tmp_path, state, factory="TiedNet")


def test_extra_state_is_kept(tmp_path: Path) -> None:
    net = ExtraNet()
    net.version = {"version": 7, "names": ["a", None, 1.5]}
    model, said = take(tmp_path, net.state_dict(), factory="ExtraNet")
    assert isinstance(model, ExtraNet)
    assert model.version == net.version
    assert said == []


def test_extra_state_that_safetensors_lack_is_that_of_the_factory(tmp_path: Path) -> None:
    model, said = take(tmp_path, STATE, factory="ExtraNet", save=save_file)
    assert isinstance(model, ExtraNet)
    assert model.version == {"version": 1}
    assert "holds no extra state, so the factory's is used" in said[0]


@pytest.mark.parametrize("value", [{1: 2}, (1, 2), b"bytes", float("nan")])
def test_extra_state_that_would_change_is_refused(value: object) -> None:
    with pytest.raises(
        CheckpointError, match=r"_extra_state is .*, which a checkpoint cannot hold"
    ):
        pack_safetensors({"_extra_state": value, "weight": torch.ones(1)})


@pytest.mark.parametrize("metadata", ["[]", '{"weight": 1}', "{", "7"])
def test_damaged_extra_states_are_refused(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(1)}, path, {"toolkit.extra_state": metadata})
    with pytest.raises(CheckpointError, match="incomplete safetensors file"):
        read_safetensors(path)


def test_versions_of_modules_reach_their_loading(tmp_path: Path) -> None:
    model, _ = take(tmp_path, STATE, factory="VersionedNet", save=save_file)
    assert_same_logits(model, NET)


TWO = {"model": STATE, "ema": {name: value + 1 for name, value in STATE.items()}}
CHOICES: dict[str, tuple[Any, dict[str, str], str]] = {
    "two state_dicts": (TWO, {"key": "ema"}, "choose one with --key model or --key ema"),
    "two prefixes": (
        {**prefixed("ema.", TWO["ema"]), **prefixed("net.")},
        {"strip_prefix": "ema."},
        r"choose one with --strip-prefix ema\. or --strip-prefix net\.",
    ),
    "others beside the prefix": (
        {**prefixed("net.", TWO["ema"]), "loss.weight": torch.ones(3)},
        {"strip_prefix": "net."},
        r"others, such as loss\.weight; to leave them out, add --strip-prefix net\.",
    ),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_what_the_user_must_choose_is_named_and_can_be_chosen(tmp_path: Path, kind: str) -> None:
    content, options, says = CHOICES[kind]
    with pytest.raises(CheckpointError, match=says):
        take(tmp_path, content)
    model, _ = take(tmp_path, content, **options)
    assert torch.equal(model.state_dict()["head.bias"], STATE["head.bias"] + 1)


def test_state_dicts_of_other_shapes_need_no_choice(tmp_path: Path) -> None:
    teacher = {name: torch.zeros(2, 2) for name in STATE}
    model, said = take(tmp_path, {"teacher": teacher, "student": STATE})
    assert_same_logits(model, NET)
    assert "'student'" in said[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": "emma"}, "--key 'emma': expected --key model or --key ema"),
        ({"strip_prefix": "x."}, r"'x\.': no name starts with it; expected --strip-prefix conv\."),
    ],
)
def test_a_choice_that_is_not_there_lists_what_is(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        take(tmp_path, TWO, **options)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_missing_and_unexpected_weights_are_named_by_torch(tmp_path: Path, prefix: str) -> None:
    state = {**STATE, "tail.weight": torch.ones(1)}
    del state["head.bias"]
    with pytest.raises(
        CheckpointError, match=r"head\.bias is missing; tail\.weight is not in the model"
    ):
        take(tmp_path, prefixed(prefix, state))


def test_an_unexpected_weight_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model: tail\.weight is not in the model"):
        take(tmp_path, {**STATE, "tail.weight": torch.ones(1)})


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def web_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


def sharded_index(path: Path) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "1.safetensors"}}))


def numpy_file(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weight=np.ones(3))


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(NET, torch.zeros(1, *SPEC.shape)), path)


OTHER_KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "Git LFS": (lfs_pointer, "is a Git LFS pointer, .*git lfs pull"),
    "web page": (web_page, "is a web page"),
    "sharded": (sharded_index, "is the index of weights in several files"),
    "NumPy": (numpy_file, "holds NumPy arrays"),
    "TorchScript": (scripted, "is a TorchScript archive, which is a program"),
    "empty": (Path.touch, "is empty"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "is compressed with gzip"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_files_are_named(tmp_path: Path, kind: str, suffix: str) -> None:
    write, says = OTHER_KINDS[kind]
    path = tmp_path / f"weights{suffix}"
    write(path)
    if suffix == ".safetensors" and kind in ("NumPy", "TorchScript"):
        says = "incomplete safetensors file"
    with pytest.raises(CheckpointError, match=says):
        read_saved(path)


HOLDS: dict[str, tuple[Any, str]] = {
    "a whole model": (NET, "a pickled object of class test_saved_by_people.Net"),
    "a whole model under a key": (
        {"model": NET, "epoch": 1},
        "a dictionary of 'model', 'epoch'.*a pickled test_saved_by_people.Net is refused",
    ),
    "a list": ([STATE], "holds list"),
    "a tensor": (torch.ones(3), "holds Tensor"),
    "no tensors": ({"epoch": 1}, "a dictionary of 'epoch'"),
    "arrays": ({"w": np.ones(3)}, "a dictionary of 'w'"),
}


@pytest.mark.parametrize("kind", HOLDS)
def test_files_without_a_state_dict_say_what_they_hold(tmp_path: Path, kind: str) -> None:
    content, says = HOLDS[kind]
    with pytest.raises(CheckpointError, match=says) as caught:
        take(tmp_path, content)
    assert "torch.save(model.state_dict(), ...)" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_quantised_model_are_called_that(tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})
    with pytest.raises(CheckpointError, match="belongs to a quantised model"):
        take(tmp_path, quantised.state_dict())


def test_objects_of_other_classes_become_stand_ins_that_hold_nothing(tmp_path: Path) -> None:
    torch.save(LIGHTNING, tmp_path / "weights.pt")
    found = read_saved(tmp_path / "weights.pt")
    assert type(found["hyper_parameters"]) is OrderedDict
    assert found["hyper_parameters"]["lr"] == 0.1
    assert type(found["hyper_parameters"]["options"]) is not argparse.Namespace
    assert torch.equal(found["state_dict"]["model.head.bias"], STATE["head.bias"])
