"""What tracing freezes is told, and a model without a graph ends in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import toolkit
from toolkit.artifacts.formats import _onnx
from toolkit.artifacts.formats._tracing import export_program, trace
from toolkit.artifacts.manifest import read_manifest
from toolkit.checkpoints.model import NamedClassifier
from toolkit.cli.export import export as command
from toolkit.errors import Unsupported
from toolkit.schema import InputSpec, ModelSpec

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """A model that every format takes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class Branch(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.4:  # the branch
            x = x * 2
        return super().forward(x)


class Item(Plain):
    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if x.max().item() > 1 else 2.0  # the item
        return super().forward(x * scale)


class FixedBatch(Plain):
    def forward(self, x: Tensor) -> Tensor:
        batch = int(x.shape[0])  # the number
        return super().forward(x.reshape(2, -1) if batch == 2 else x)


class Array(Plain):
    def forward(self, x: Tensor) -> Tensor:
        largest = float(x.numpy().max())  # the array
        return super().forward(x / largest)


class Singular(Plain):
    def forward(self, x: Tensor) -> Tensor:
        values = torch.linalg.svdvals(x)
        return super().forward(x * values[..., :1, None])


def line_of(mark: str) -> int:
    """The number of the line of this file that ends in a comment."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [at for at, line in enumerate(lines, 1) if line.endswith(f"# the {mark}")]
    return number


def named(model: nn.Module) -> NamedClassifier:
    return NamedClassifier(model).eval()


@pytest.mark.parametrize(
    ("model", "mark", "what"),
    [
        (Branch(), "branch", "a branch"),
        (FixedBatch(), "number", "a number"),
        (Array(), "array", "an array"),
    ],
)
def test_a_trace_tells_what_it_froze(model: nn.Module, mark: str, what: str) -> None:
    _, frozen = trace(named(model), EXAMPLE)
    assert f"tracing froze {what} at test_tracing.py, line {line_of(mark)} (`" in frozen[0]
    assert "torch.where" in frozen[0]


def test_a_trace_of_a_plain_model_has_nothing_to_tell() -> None:
    traced, frozen = trace(named(Plain()), EXAMPLE)
    assert frozen == ()
    assert traced(EXAMPLE).shape == (2, 10)


@pytest.mark.parametrize(
    ("exporter", "model", "mark", "advice"),
    [
        ("pt2", Branch(), "branch", "write torch.where or torch.cond"),
        ("onnx", Branch(), "branch", "write torch.where or torch.cond"),
        ("pt2", Item(), "item", "write torch.where or torch.cond"),
        ("pt2", FixedBatch(), "number", "its code fixes the batch size to that of the example"),
        ("onnx", FixedBatch(), "number", "its code fixes the batch size to that of the example"),
        ("pt2", Array(), "array", "write operators of torch"),
    ],
)
def test_a_model_without_a_graph_ends_in_one_line(
    exporter: str,
    model: nn.Module,
    mark: str,
    advice: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write: dict[str, Callable[[], object]] = {
        "pt2": lambda: export_program(named(model), EXAMPLE),
        "onnx": lambda: _onnx.write_onnx(named(model), EXAMPLE, tmp_path / "model.onnx"),
    }
    with pytest.raises(Unsupported) as caught:
        write[exporter]()
    reason = caught.value.reason
    assert reason.startswith("torch.export cannot take this model: ")
    assert f"test_tracing.py, line {line_of(mark)} (`" in reason
    assert advice in reason
    assert "\n" not in reason
    if advice.startswith("write"):
        assert "Traceback" in caught.value.stderr_tail
    assert capfd.readouterr().err.count("\n") < 5


def test_a_model_that_onnx_has_no_operators_for_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"to ONNX: DispatchError: .*svd") as caught:
        _onnx.write_onnx(named(Singular()), EXAMPLE, tmp_path / "model.onnx")
    assert "\n" not in caught.value.reason


def test_an_error_of_a_converter_is_not_taken_for_one_of_the_model() -> None:
    from toolkit.artifacts.formats._tracing import as_unsupported

    with pytest.raises(ValueError, match="no kernel"), as_unsupported(named(Plain()), EXAMPLE):
        raise ValueError("no kernel")


def test_a_frozen_branch_is_told_by_export_and_verify(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"fc.weight": torch.randn(10, 784), "fc.bias": torch.full((10,), 1000.0)}
    torch.save(weights, tmp_path / "w.pt")
    toolkit.import_weights(
        tmp_path / "w.pt",
        out=tmp_path / "net",
        model=ModelSpec(factory="branching:Branching"),
        input_spec=InputSpec(shape=(1, 28, 28), mean=(0.5,), std=(0.5,)),
        classes=10,
    )
    out = tmp_path / "out"
    arguments = ["--format", "torchscript", "--format", "pt2", "--model", "branching:Branching"]
    with pytest.raises(SystemExit):
        command([str(tmp_path / "net"), "--out", str(out), *arguments])
    printed = capsys.readouterr().out
    (warning,) = read_manifest(out).artifacts[0].warnings
    assert "branching.py, line 16 (`return y if float(y.sum()) > 0 else -y`)" in warning
    assert f"Warning: torchscript fp32: {warning}" in printed
    assert "pt2 fp32: unsupported: torch.export cannot take this model: branching.py" in printed
    assert f"**Warning:** {warning}" in (out / "net.torchscript.md").read_text()
    results = toolkit.verify(
        [out],
        data=small_data,
        model="branching:Branching",
        session=toolkit.SessionOptions(threads=1),
    )
    rows = {row.runtime: row for row in results.parity}
    assert warning in rows["torchscript"].remarks
