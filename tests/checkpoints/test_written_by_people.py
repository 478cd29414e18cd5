"""Models as people write them: taken, or refused with the cause."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from conftest import REPOSITORY
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from toolkit.checkpoints.import_weights import import_weights
from toolkit.checkpoints.model import build_model, build_plain, exportable
from toolkit.checkpoints.outputs import two_logits
from toolkit.checkpoints.plain import with_plain_weights
from toolkit.checkpoints.storage import load_model, save_checkpoint
from toolkit.checkpoints.trial import Trial
from toolkit.errors import CheckpointError, ToolkitWarning
from toolkit.schema import InputSpec, ModelSpec

SHAPE = (3, 8, 8)
SPEC = InputSpec(shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)
EXAMPLES = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A small network."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.conv(x)).relu().mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class SilentTrain(Net):
    """Its train() returns nothing, so neither does eval()."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()


class SilentEval(Net):
    def eval(self) -> None:  # type: ignore[override]
        super().eval()


def parallel() -> nn.Module:
    return nn.DataParallel(Net())


def parallel_part() -> nn.Module:
    net = Net()
    net.conv = nn.DataParallel(net.conv)  # type: ignore[assignment]
    return net


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Net())


def compiled_in_place() -> nn.Module:
    net = Net()
    net.compile()
    return net


def half() -> nn.Module:
    return Net().half()


def old_weight_norm() -> nn.Module:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        net.conv = nn.utils.weight_norm(net.conv)
    return net


def new_norms() -> nn.Module:
    net = Net()
    parametrizations.spectral_norm(net.head)
    parametrizations.weight_norm(net.conv)
    return net


def old_spectral_norm() -> nn.Module:
    net = Net()
    nn.utils.spectral_norm(net.head)
    return net


def pruned() -> nn.Module:
    net = Net()
    prune.l1_unstructured(net.head, "weight", 0.5)
    return net


class InPlace(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.sub_(0.1).mul_(0.5))


class Float(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.to(torch.float32))


INSTANCE = Net()
WORKING = [
    *("Net", "SilentTrain", "SilentEval", "parallel", "parallel_part", "averaged"),
    *("compiled_in_place", "half", "old_weight_norm", "new_norms", "old_spectral_norm", "pruned"),
    *("InPlace", "Float", "INSTANCE"),
]


def imported(folder: Path, factory: str, **options: Any) -> nn.Module:
    """Import a model of this file with random weights, and load it again."""
    model = globals()[factory]
    original = model if isinstance(model, nn.Module) else model(**options.get("arguments", {}))
    original.eval()
    torch.save(original.state_dict(), folder / "weights.pt")
    spec = ModelSpec(
        factory=f"test_written_by_people:{factory}",
        arguments=options.get("arguments", {}),
        output=options.get("output"),
    )
    import_weights(
        folder / "weights.pt",
        out=folder / "out",
        model=spec,
        input_spec=SPEC,
        classes=options.get("classes", 10),
    )
    loaded = load_model(folder / "out", trusted=spec.factory)[0]
    if not options:
        original._compiled_call_impl = None  # compiling takes long
        dtype = next(original.parameters()).dtype
        expected = original(EXAMPLES.to(dtype, copy=True)).float()
        assert torch.allclose(loaded(EXAMPLES.clone()), expected, atol=2e-3)
    return loaded


@pytest.mark.filterwarnings("ignore::toolkit.errors.ToolkitWarning")
@pytest.mark.parametrize("factory", WORKING)
def test_models_are_taken_and_give_the_same_logits(tmp_path: Path, factory: str) -> None:
    loaded = imported(tmp_path, factory)
    assert {each.dtype for each in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    assert exportable(loaded, EXAMPLES)(EXAMPLES).shape == (4, 10)


@pytest.mark.parametrize("factory", ["old_weight_norm", "new_norms", "old_spectral_norm", "pruned"])
def test_weights_of_norms_and_prunings_become_plain(factory: str) -> None:
    model = globals()[factory]().eval()
    expected = model(EXAMPLES)
    plain = with_plain_weights(model)
    assert plain.module.state_dict().keys() == Net().state_dict().keys()
    assert torch.allclose(plain.module(EXAMPLES), expected, atol=1e-6)
    assert "applied once, to " in plain.changes[0]


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("parallel", "DataParallel around the model was left out"),
        ("averaged", "AveragedModel around the model was left out"),
        ("compiled_in_place", r"compile\(\) of the model was left out"),
        ("half", "builds the model in float16; the checkpoint is float32"),
    ],
)
def test_what_was_done_to_a_model_is_said(tmp_path: Path, factory: str, says: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ToolkitWarning)
        imported(tmp_path, factory)
    assert re.search(says, " ".join(str(each.message) for each in caught))


def test_compiled_model_is_taken_out_of_its_wrapper() -> None:
    """Nothing is compiled until the first call."""
    spec = ModelSpec(factory="test_written_by_people:compiled")
    plain = build_plain(spec, trusted=spec.factory)
    assert type(plain.module) is Net
    assert plain.changes == ("OptimizedModule around the model was left out",)


def compiled() -> object:
    return torch.compile(Net())


def test_a_module_named_as_factory_is_not_changed(tmp_path: Path) -> None:
    before = INSTANCE.state_dict()["head.bias"].clone()
    spec = ModelSpec(factory="test_written_by_people:INSTANCE")
    with torch.no_grad():
        build_model(spec, trusted=spec.factory).get_parameter("head.bias").add_(1)
    assert torch.equal(INSTANCE.state_dict()["head.bias"], before)


class Squeezing(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(x).mean((2, 3), keepdim=True).squeeze())


class BatchOfTwo(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x).view(2, 4))


class BatchOfOne(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x).view(4))[None]


class Dropping(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(F.dropout(self.features(x)))


class Counting(Net):
    def forward(self, x: Tensor) -> Any:
        self.head.bias.data += 1
        return super().forward(x)


class OverTheBatch(Net):
    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        return self.head(features - features.mean(0))


class Classes(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).argmax(1)


class NoPooling(Net):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Double(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).double()


class Autocast(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class TwoInputs(Net):
    def forward(self, image: Tensor, age: Tensor) -> Any:  # type: ignore[override]
        return super().forward(image) + age


class Sigmoid(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.sigmoid(super().forward(x)[:, :1]).squeeze(1)


class NoTensor(Net):
    def forward(self, x: Tensor) -> Any:
        return None


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def scripted() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(2, 2))


REFUSED = {
    "Squeezing": r"not a batch of one: it returned \[10\].*squeeze\(\).*flatten\(1\)",
    "BatchOfTwo": "takes a batch of 2, but not a batch of 3: .*a batch size is fixed in its code",
    "BatchOfOne": "takes one sample, but not 2: .*batch size 1 is fixed",
    "Dropping": r"is random: .*look for dropout",
    "Counting": r"is random: .*a state that changes with each call",
    "OverTheBatch": r"depends on the batch: .*BatchNorm without running statistics",
    "Classes": r"returned int64 \[2\] .*not the class \(argmax\)",
    "NoPooling": r"returned \[2, 4, 6, 6\] .*image classifiers \[N,C,H,W\] -> \[N,K\]",
    "Double": r"returned float64 \[2, 10\], expected float32 logits: end its forward with \.float",
    "Autocast": r"computes in bfloat16 \(test_written_by_people\.py, line \d+\).*autocast",
    "TwoInputs": r"takes 2 inputs \(image, age\).*wrap it .*recipe",
    "Tuple": r"returned tuple\(0: \[2, 4\], 1: \[2, 10\]\); choose .*--output 1",
    "Dictionary": r"returned dict\(features: .*--output logits",
    "Output": r"returned Output\(.*--output logits",
    "NoTensor": r"returned NoneType, expected logits \[2, 10\]",
    "scripted": "returns a TorchScript module.*return the torch.nn.Module itself",
}


class Tuple(Net):
    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        return features, self.head(features)


class Pair(NamedTuple):
    features: Tensor
    logits: Tensor


class Named(Tuple):
    def forward(self, x: Tensor) -> Any:
        return Pair(*super().forward(x))


class Dictionary(Tuple):
    def forward(self, x: Tensor) -> Any:
        features, logits = super().forward(x)
        return {"features": features, "logits": logits}


@dataclass
class Fields:
    features: Tensor
    logits: Tensor


class Output(Tuple):
    def forward(self, x: Tensor) -> Any:
        return Fields(*super().forward(x))


REFUSED["Output"] = r"returned Fields\(.*--output logits"


@pytest.mark.parametrize("factory", REFUSED)
def test_models_that_do_not_fit_are_refused_with_the_cause(tmp_path: Path, factory: str) -> None:
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=REFUSED[factory]) as caught:
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model=f"test_written_by_people:{factory}",
            input_spec=SPEC,
            classes=10,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("factory", "output"),
    [
        *(("Tuple", 1), ("Tuple", -1), ("Dictionary", "logits"), ("Dictionary", 1)),
        *(("Named", "logits"), ("Named", 1), ("Output", "logits"), ("Output", 1)),
    ],
)
def test_one_of_several_outputs_is_chosen(tmp_path: Path, factory: str, output: str | int) -> None:
    model = imported(tmp_path, factory, output=output)
    assert model(EXAMPLES).shape == (4, 10)


@pytest.mark.parametrize(
    ("factory", "output"),
    [("Tuple", "x"), ("Tuple", 2), ("Dictionary", "x"), ("Output", "x"), ("Net", 0), ("Net", "x")],
)
def test_an_output_that_is_not_there_is_refused(
    tmp_path: Path, factory: str, output: str | int
) -> None:
    with pytest.raises(CheckpointError, match=rf"has no output '?{output}.*correct --output"):
        imported(tmp_path, factory, output=output)


class OneLogit(Net):
    def __init__(self) -> None:
        super().__init__(classes=1)


class FlatLogit(OneLogit):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).squeeze(1)


class LogitInTuple(OneLogit):
    def forward(self, x: Tensor) -> Any:
        return self.features(x), super().forward(x)


@pytest.mark.parametrize(
    ("factory", "output"), [("OneLogit", None), ("FlatLogit", None), ("LogitInTuple", 1)]
)
def test_one_logit_becomes_the_logits_of_two_classes(
    tmp_path: Path, factory: str, output: int | None
) -> None:
    with pytest.warns(ToolkitWarning, match=r"one logit z, taken as the logits \[0, z\]"):
        model = imported(tmp_path, factory, output=output, classes=2)
    logits = model(EXAMPLES)
    assert logits.shape == (4, 2)
    assert torch.equal(logits[:, 0], torch.zeros(4))
    inner = model.model(EXAMPLES)  # type: ignore[operator]
    expected = inner if output is None else inner[output]
    assert torch.equal(logits[:, 1], expected.reshape(-1))
    record = load_model(tmp_path / "out", trusted=f"test_written_by_people:{factory}")[1]
    assert (record.model.one_logit, record.classes) == (True, 2)


def test_softmax_of_two_logits_is_the_sigmoid() -> None:
    logit = torch.tensor([[-3.0], [0.0], [2.0]])
    assert torch.allclose(two_logits(logit).softmax(1)[:, 1:], logit.sigmoid())


def test_one_logit_and_another_number_of_classes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one logit, .*binary classifier; use --classes 2"):
        imported(tmp_path, "OneLogit", classes=10)
    with pytest.raises(CheckpointError, match=r"binary model with one logit .* has 2 classes"):
        imported(tmp_path, "OneLogit", classes=1)


@pytest.mark.parametrize("factory", ["Sigmoid"])
def test_a_probability_is_not_taken_for_a_logit(tmp_path: Path, factory: str) -> None:
    with pytest.raises(CheckpointError, match="returns one probability, the sigmoid of a logit"):
        imported(tmp_path, factory, classes=2)


def test_masked_classes_do_not_count_as_a_difference() -> None:
    class Masked(Net):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            logits[:, 8] = -torch.inf
            logits[:, 9] = torch.finfo(torch.float32).min
            return logits

    spec = ModelSpec(factory="masked")
    assert Trial(model=Masked(), spec=spec, shape=SHAPE, classes=10).run() == spec


def test_a_checkpoint_of_a_chosen_output_can_be_saved_again(tmp_path: Path) -> None:
    model = imported(tmp_path, "Dictionary", output="logits")
    trusted = "test_written_by_people:Dictionary"
    record = load_model(tmp_path / "out", trusted=trusted)[1]
    again = save_checkpoint(tmp_path / "again", model, replace(record, name="again"))
    assert again.sha256 == record.sha256


def recipes() -> list[str]:
    """The Python code in the docs."""
    page = (REPOSITORY / "docs" / "own-models.md").read_text()
    return [part.partition("```")[0] for part in page.split("```python\n")[1:]]


RECIPES: dict[str, tuple[tuple[int, ...], int]] = {
    "Binary": ((3, 16, 16), 2),
    "TwoHeads": ((3, 16, 16), 10),
    "WithFixedSettings": ((3, 16, 16), 10),
    "ImageAndAge": ((65,), 10),
    "Audio": ((1, 16000), 10),
    "Table": ((13,), 3),
}


@pytest.mark.filterwarnings("ignore:.*one logit z")
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_the_docs_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shape, classes = RECIPES[name]
    (code,) = (each for each in recipes() if f"class {name}(" in each)
    (tmp_path / f"recipe_{name.lower()}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(code, name, "exec"), space)
    torch.save(space[name]().state_dict(), "weights.pt")
    record = import_weights(
        "weights.pt",
        out="out",
        model=f"recipe_{name.lower()}:{name}",
        input_spec=InputSpec(
            shape=shape,
            mean=(0.0,) * shape[0],
            std=(1.0,) * shape[0],
            dtype="uint8" if len(shape) == 3 else "float32",
        ),
        classes=classes,
    )
    assert record.classes == classes
