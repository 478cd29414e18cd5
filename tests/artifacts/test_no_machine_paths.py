"""What leaves the machine: no exported file names a folder or the user of the machine."""

from __future__ import annotations

import importlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY, USUAL

import toolkit
from toolkit.artifacts.formats import FORMATS, Format, _onnx, aotinductor, pt2, torchscript
from toolkit.schema import InputSpec, ModelSpec, Precision

USER = "zaphod-beeblebrox"
FACTORY = "net_of_the_user:build"
MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, stride=2)

    def forward(self, x):
        return torch.relu(self.conv(x))


def build():
    hidden = nn.Linear(8 * 12 * 12, 32)
    return nn.Sequential(Block(), nn.Flatten(), hidden, nn.ReLU(), nn.Linear(32, 10))
"""

INSTALLED = [row for row in FORMATS.values() if not row.missing()]
NARROW = [(row, each) for row in INSTALLED for each in row.precisions if each != "fp32"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a user with a name that occurs nowhere else; the model's code is in it."""
    home = tmp_path_factory.mktemp("homes") / USER
    code = home / "code"
    code.mkdir(parents=True)
    (code / "net_of_the_user.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("LOGNAME", USER)
        patch.syspath_prepend(str(code))
        yield home
    sys.modules.pop("net_of_the_user", None)


@pytest.fixture(scope="module")
def checkpoint(home: Path) -> Path:
    torch.manual_seed(0)
    weights = home / "weights.pt"
    torch.save(importlib.import_module("net_of_the_user").build().state_dict(), weights)
    toolkit.import_weights(
        weights,
        out=home / "net",
        model=ModelSpec(factory=FACTORY),
        input_spec=InputSpec(shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,)),
        classes=10,
    )
    return home / "net"


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below `path`, and every member of archives in it, decompressed."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            yield from unpacked(file.name, file.read_bytes())


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for each in archive.namelist():
                yield from unpacked(f"{name}/{each}", archive.read(each))


def found_in(path: Path, home: Path) -> list[str]:
    """The places of this machine that the files below `path` name, and where."""
    wanted = {str(home), USER, str(home.parent), str(REPOSITORY), sys.prefix, sys.base_prefix}
    wanted |= {str(Path.home()), str(Path(tempfile.gettempdir()) / "toolkit-"), "toolkit-export-"}
    wanted -= {"/usr", "/usr/local"}
    return [
        f"{text} in {name}"
        for name, content in contents(path)
        # The linker of macOS signs it, so it cannot be changed.
        if not (sys.platform == "darwin" and name.endswith(aotinductor.LIBRARY))
        for text in sorted(wanted)
        if text.encode() in content or text.encode("utf-16-le") in content
    ]


def export(checkpoint: Path, out: Path, row: Format, precision: Precision = "fp32") -> Path:
    done = toolkit.export(
        checkpoint, out=out, formats=[row.name], precisions=[precision], model=FACTORY
    )
    assert [str(each.failure) for each in done.failures] == []
    return out


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=() if row.usual else pytest.mark.slow)
        for row in INSTALLED
    ],
)
def test_no_file_names_a_place_of_this_machine(
    checkpoint: Path, home: Path, tmp_path: Path, row: Format
) -> None:
    assert found_in(export(checkpoint, tmp_path / "out", row), home) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "precision"), NARROW, ids=[f"{row.name}-{each}" for row, each in NARROW]
)
def test_no_narrow_file_names_a_place_of_this_machine(
    checkpoint: Path, home: Path, tmp_path: Path, row: Format, precision: Precision
) -> None:
    assert found_in(export(checkpoint, tmp_path / "out", row, precision), home) == []


@pytest.fixture
def nothing_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export as if the toolkit removed no paths."""
    monkeypatch.setattr(torchscript, "rewrite_archive", lambda archive, _: archive.getvalue())
    monkeypatch.setattr(pt2, "forget_stack_traces", lambda _: None)
    monkeypatch.setattr(_onnx, "_forget_stack_traces", lambda _: None)


@pytest.mark.usefixtures("nothing_removed")
@pytest.mark.parametrize("name", USUAL)
def test_search_finds_paths_that_are_not_removed(
    checkpoint: Path, home: Path, tmp_path: Path, name: str
) -> None:
    assert found_in(export(checkpoint, tmp_path / "out", FORMATS[name]), home) != []


def logits_of(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if path.suffix == ".onnx":
        (logits,) = onnxruntime.InferenceSession(str(path)).run(None, {"input": images})
        return np.asarray(logits)
    with torch.no_grad():
        if path.suffix == ".pt2":
            return np.asarray(torch.export.load(path).module()(torch.from_numpy(images)))
        return np.asarray(torch.jit.load(path)(torch.from_numpy(images)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
@pytest.mark.parametrize("name", USUAL)
def test_removal_changes_no_bit_of_the_logits(
    checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    file = f"net{FORMATS[name].suffix}"
    images = np.random.default_rng(0).standard_normal((7, 1, 28, 28), np.float32)
    removed = logits_of(export(checkpoint, tmp_path / "new", FORMATS[name]) / file, images)
    request.getfixturevalue("nothing_removed")
    kept = logits_of(export(checkpoint, tmp_path / "old", FORMATS[name]) / file, images)
    assert np.array_equal(removed, kept)


@pytest.mark.parametrize("name", ["onnx", "pt2"])  # TorchScript numbers the classes of a process
def test_bytes_depend_only_on_the_model(checkpoint: Path, tmp_path: Path, name: str) -> None:
    first, second = (export(checkpoint, tmp_path / each, FORMATS[name]) for each in ("a", "b"))
    file = f"net{FORMATS[name].suffix}"
    assert (first / file).read_bytes() == (second / file).read_bytes()
