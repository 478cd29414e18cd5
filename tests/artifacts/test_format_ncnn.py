"""ncnn: storage of the weights, one image at a time, and damage shown by its return codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from colour import IMAGES, damaged, logits_of, request_for, source_of

from toolkit.artifacts.formats.ncnn import export
from toolkit.errors import ArtifactError, InputError, Unsupported
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes.ncnn import load, may_use_winograd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier in float32. Read-only."""
    path = tmp_path_factory.mktemp("ncnn") / "model.ncnn"
    export(request_for(path))
    return path


def test_export_leaves_only_the_two_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.param"]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_exported_user_model_gives_the_same_logits(
    tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    """ncnn leaves gaps between channels of 31 x 29 pixels."""
    path = tmp_path / "model.ncnn"
    export(request_for(path, precision))
    session = load(source_of(path, "ncnn", precision), Settings(threads=1))
    images = IMAGES[:3]
    wanted = logits_of(images)
    np.testing.assert_allclose(session.run(images), wanted, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(session.run(images[1:]), session.run(images)[1:])
    assert session.attestation.precision == precision


@pytest.mark.parametrize(
    ("layer", "winograd"),
    [
        ("0=8 1=3", True),
        ("0=8 1=3 11=3 4=1", True),
        ("0=8 1=1", False),
        ("0=8 1=3 11=1", False),
        ("0=8 1=3 3=2", False),
        ("0=8 1=3 2=2", False),
    ],
)
def test_possible_winograd_convolutions_are_detected(layer: str, winograd: bool) -> None:
    graph = f"7767517\n2 2\nInput in0 0 1 in0\nConvolution conv_0 1 1 in0 1 {layer}\n"
    assert may_use_winograd(graph) is winograd


def test_plain_setting_switches_winograd_off(folder: Path) -> None:
    source = source_of(folder, "ncnn")
    usual, plain = (load(source, Settings(threads=1, plain=each)) for each in (False, True))
    assert usual.attestation.arithmetic == "float32 (Winograd)"
    assert plain.attestation.arithmetic == "float32"
    assert plain.attestation.evidence["arithmetic"] == "read back"
    found, wanted = plain.run(IMAGES), usual.run(IMAGES)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    assert not np.array_equal(found, wanted)


class Unknown(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return torch.lgamma(input.flatten(1)[:, :5].abs() + 1)


def test_export_fails_for_operators_that_ncnn_lacks(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"has no operator torch\.lgamma"):
        export(request_for(tmp_path / "model.ncnn", model=Unknown()))
    assert list(tmp_path.iterdir()) == []


def test_fp16_weights_take_half_the_space(folder: Path, tmp_path: Path) -> None:
    export(request_for(tmp_path / "half", "fp16"))
    sizes = [(path / "model.bin").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_threads_are_counted(folder: Path) -> None:
    threads = [
        load(source_of(folder, "ncnn"), Settings(threads=count)).attestation.threads
        for count in (1, 3, 2)
    ]
    assert threads == [1, 3, 2]


def test_input_of_another_shape_is_refused(folder: Path) -> None:
    session = load(source_of(folder, "ncnn"), Settings(threads=1))
    with pytest.raises(InputError, match=r"expected \[N, 3, 31, 29\]"):
        session.run(np.zeros((2, 3, 29, 31), np.float32))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.param", "model.bin"])
def test_a_truncated_file_is_refused(folder: Path, tmp_path: Path, name: str, kept: float) -> None:
    copy = damaged(folder, tmp_path, name, lambda data: data[: int(kept * len(data))])
    with pytest.raises(ArtifactError, match="toolkit export --format ncnn"):
        load(source_of(copy, "ncnn"), Settings(threads=1))


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path, "model.bin", lambda data: data + bytes(400))
    with pytest.raises(
        ArtifactError, match=r"model.bin does not contain the weights of model.param"
    ):
        load(source_of(copy, "ncnn"), Settings(threads=1))


def test_an_output_of_another_size_is_refused(folder: Path) -> None:
    source = source_of(folder, "ncnn")
    wrong = replace(source, artifact=replace(source.artifact, classes=6))
    with pytest.raises(Exception, match="expected 6 logits"):
        load(wrong, Settings(threads=1))
