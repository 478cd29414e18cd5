"""Exported TorchScript files do not allow TF32, and runtimes detect files that do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour import IMAGES, ColourNet, InPlace, logits_of, request_for, source_of
from torch import Tensor, nn

from toolkit.artifacts.formats.torchscript import export
from toolkit.artifacts.parsers.torchscript import allows_tf32, narrowest_cast
from toolkit.schema import Settings
from toolkit.sessions.runtimes import torchscript, torchscript_frozen

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CUDNN: Any = torch.backends.cudnn
CONVOLUTIONS = CUDNN.conv


@pytest.fixture(autouse=True)
def flags_come_back() -> Iterator[None]:
    """Restore cuDNN's flags after each test. This one sets all of them; torch raises an error on
    reading if they differ."""
    before = CUDNN.allow_tf32
    yield
    CUDNN.allow_tf32 = before


class Casting(ColourNet):
    """Activations are cast to a narrower type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.dtype).float())


class Branch(nn.Module):
    """A convolution that only one branch has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = self.layer(x)
        return x


def traced(model: nn.Module, *, tf32: bool) -> Any:
    CONVOLUTIONS.fp32_precision = CUDNN.rnn.fp32_precision = "tf32" if tf32 else "ieee"
    with torch.no_grad():
        return torch.jit.trace(model.eval(), torch.from_numpy(IMAGES[:2]))


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_flag_of_the_trace_is_read_back(tmp_path: Path, tf32: bool) -> None:
    module = traced(ColourNet(), tf32=tf32)
    path = tmp_path / "model.torchscript"
    torch.jit.save(module, path)
    CONVOLUTIONS.fp32_precision = "ieee"  # as a session does; it does not affect the file
    loaded = torch.jit.load(path)
    assert allows_tf32(module) is allows_tf32(loaded) is tf32
    assert allows_tf32(torch.jit.freeze(loaded.eval())) is tf32


def test_tf32_flag_inside_a_branch_is_found() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.jit.script(Branch())
            self.convolution = traced(nn.Conv2d(3, 4, 3), tf32=True)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                x = self.convolution(x)
            return x

    assert allows_tf32(torch.jit.script(Outer()))
    assert not allows_tf32(torch.jit.script(Branch()))  # scripted: the flags of the process apply


@pytest.mark.parametrize("tf32", [True, False])
def test_export_disables_tf32_and_restores_the_flag(tmp_path: Path, tf32: bool) -> None:
    CONVOLUTIONS.fp32_precision = "tf32" if tf32 else "ieee"
    export(request_for(tmp_path / "model.torchscript"))
    assert CONVOLUTIONS.fp32_precision == ("tf32" if tf32 else "ieee")
    assert not allows_tf32(torch.jit.load(tmp_path / "model.torchscript"))


def test_model_that_switches_tf32_on_is_not_published(tmp_path: Path) -> None:
    class Fast(ColourNet):
        def forward(self, x: Tensor) -> Tensor:
            CONVOLUTIONS.fp32_precision = "tf32"
            return super().forward(x)

    path = tmp_path / "model.torchscript"
    with pytest.raises(ValueError, match="a convolution of the traced model may use TF32"):
        export(request_for(path, model=Fast()))
    assert not path.exists()


@pytest.mark.parametrize("runtime", [torchscript, torchscript_frozen])
@pytest.mark.parametrize(
    ("dtype", "precision", "arithmetic"),
    [
        (torch.float32, "fp32", "float32"),
        (torch.float16, "fp16", "float16"),
        (torch.bfloat16, "bf16", "bfloat16"),
    ],
)
def test_activations_in_a_narrower_type_are_attested(
    tmp_path: Path, runtime: Any, dtype: torch.dtype, precision: str, arithmetic: str
) -> None:
    path = tmp_path / "model.torchscript"
    export(request_for(path, model=Casting(dtype)))
    session = runtime.load(source_of(path, "torchscript"), Settings(threads=1))
    session.run(IMAGES)
    found = session.attestation
    assert (found.precision, found.arithmetic) == (precision, arithmetic)
    assert found.evidence["arithmetic"] == "read back"


def test_autocast_is_detected_as_a_cast() -> None:
    class Autocast(ColourNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    assert narrowest_cast(traced(Autocast(), tf32=False)) is torch.bfloat16
    assert narrowest_cast(traced(ColourNet(), tf32=False)) is None


def test_tf32_flag_of_the_file_matters_only_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.torchscript"
    torch.jit.save(traced(ColourNet(), tf32=True), path)
    session: Any = torchscript.load(source_of(path, "torchscript"), Settings(threads=1))
    assert session.attestation.arithmetic == "float32"
    monkeypatch.setattr(session, "_device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    assert session.attestation.arithmetic == "TF32"


def test_frozen_session_reads_tf32_from_the_rewritten_graph(tmp_path: Path) -> None:
    """On a CPU, the rewritten graph has oneDNN's convolutions, which have no TF32."""
    path = tmp_path / "model.torchscript"
    torch.jit.save(traced(ColourNet(), tf32=True), path)
    session: Any = torchscript_frozen.load(source_of(path, "torchscript"), Settings(threads=1))
    assert session.attestation.arithmetic == "float32"


@pytest.mark.parametrize("runtime", [torchscript, torchscript_frozen])
def test_caller_input_is_unchanged(tmp_path: Path, runtime: Any) -> None:
    """For a file that copies its input and for one that works in place."""
    ours, theirs = tmp_path / "ours.torchscript", tmp_path / "theirs.torchscript"
    export(request_for(ours, model=InPlace()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(traced(InPlace(), tf32=False), theirs)
    wanted = logits_of(IMAGES.copy(), InPlace())
    for path in (ours, theirs):
        session = runtime.load(source_of(path, "torchscript"), Settings(threads=1))
        inputs = IMAGES.copy()
        for _ in range(3):
            np.testing.assert_allclose(session.run(inputs), wanted, atol=1e-5)
        np.testing.assert_array_equal(inputs, IMAGES)


def test_file_of_an_in_place_model_does_not_change_its_input(tmp_path: Path) -> None:
    path = tmp_path / "model.torchscript"
    export(request_for(path, model=InPlace()))
    inputs = torch.from_numpy(IMAGES.copy())
    torch.jit.load(path)(inputs)
    assert torch.equal(inputs, torch.from_numpy(IMAGES))
