"""Verdicts about artifacts that get raw bytes: healthy ones pass, a wrong preprocessing in the file
fails and is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, write_images
from torch import Tensor, nn

import toolkit
from toolkit.artifacts.embedded import WithPreprocessing, example_images
from toolkit.artifacts.export import export
from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.artifacts.manifest import read_manifest, write_manifest
from toolkit.checkpoints.storage import load_model
from toolkit.errors import ArtifactError
from toolkit.files import sha256_of
from toolkit.schema import InputSpec, ModelSpec, ParityReport, Precision

NAME = "mnist-cnn.uint8-input.onnx"


def verified(folder: Path, data: Path, *runtimes: str) -> list[ParityReport]:
    session = toolkit.SessionOptions(threads=2, batch_size=100)
    return list(toolkit.verify([folder], runtimes=runtimes, data=data, session=session).parity)


class Unscaled(WithPreprocessing):
    """Does not divide by 255."""

    def forward(self, input: Tensor) -> Tensor:
        logits: Tensor = self.model((input.float() - self.pixel_mean) / self.pixel_std)
        return logits


def swapped(model: nn.Module, spec: InputSpec) -> nn.Module:
    return WithPreprocessing(model, replace(spec, mean=spec.std, std=spec.mean))


def rounded(model: nn.Module, spec: InputSpec) -> nn.Module:
    return WithPreprocessing(model, replace(spec, mean=(0.12,), std=(0.29,)))


Make = Callable[[nn.Module, InputSpec], nn.Module]


def plant(folder: Path, make: Make, checkpoint: Path = CHECKPOINT) -> None:
    """Replace the ONNX file of a folder by one with another preprocessing, and its record."""
    model, record = load_model(checkpoint, trusted="colour:ColourNet")
    example = example_images(record.input.shape, batch_size=2)
    manifest = read_manifest(folder)
    (artifact,) = manifest.artifacts
    path = folder / artifact.path
    write_onnx(make(model, record.input).eval(), example, path)
    changed = replace(artifact, sha256=sha256_of(path), size_bytes=path.stat().st_size)
    write_manifest(folder, replace(manifest, artifacts=(changed,)))


def test_embedded_and_plain_files_pass_side_by_side(tmp_path: Path, small_data: Path) -> None:
    export(CHECKPOINT, out=tmp_path, formats=["onnx"])
    export(CHECKPOINT, out=tmp_path, formats=["onnx"], embed_preprocessing=True)
    rows = verified(tmp_path, small_data, "onnxruntime")
    assert [(row.file, row.embeds_preprocessing) for row in rows] == [
        ("mnist-cnn.onnx", False),
        (NAME, True),
    ]
    assert {row.status for row in rows} <= {"passed", "undecided"}
    names = [check.name for check in rows[1].checks]
    assert "images that no test set has" in names
    assert all(check.reason is None for row in rows for check in row.checks)


FAULTS: list[tuple[Make, str, str]] = [
    (swapped, "other normalisation", "mean and std swapped"),
    (Unscaled, "0..255 for 0..1", "pixels from 0 to 255 are normalised"),
    (rounded, "other normalisation", "mean 0.12"),
]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        pytest.param(*each, id=each[2], marks=[] if number == 0 else [pytest.mark.slow])
        for number, each in enumerate(FAULTS)
    ],
)
def test_wrong_preprocessing_in_the_file_fails_and_is_named(
    tmp_path: Path, small_data: Path, make: Make, kind: str, words: str
) -> None:
    export(CHECKPOINT, out=tmp_path, formats=["onnx"], embed_preprocessing=True)
    plant(tmp_path, make)
    (row,) = verified(tmp_path, small_data, "onnxruntime")
    assert row.status == "failed"
    assert row.cause is not None
    assert row.cause.kind == kind
    assert words in row.cause.text
    assert "The file preprocesses images in another way" in row.cause.text
    assert "gets raw images" in row.cause.action


@pytest.mark.slow
def test_weights_changed_in_an_embedded_file_are_named(tmp_path: Path, small_data: Path) -> None:
    def changed(model: nn.Module, spec: InputSpec) -> nn.Module:
        with torch.no_grad():
            model.get_parameter("conv1.weight")[3, 0, 1, 1] += 1
        return WithPreprocessing(model, spec)

    export(CHECKPOINT, out=tmp_path, formats=["onnx"], embed_preprocessing=True)
    plant(tmp_path, changed)
    (row,) = verified(tmp_path, small_data, "onnxruntime")
    assert row.cause is not None
    assert row.cause.kind == "few weights changed"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_wrong_constants_in_an_inexact_file_are_named(
    tmp_path: Path, small_data: Path, precision: Precision
) -> None:
    """The record of another input spec: the file itself is as exported."""
    import onnx
    from onnx import numpy_helper

    export(
        CHECKPOINT, out=tmp_path, formats=["onnx"], precisions=[precision], embed_preprocessing=True
    )
    manifest = read_manifest(tmp_path)
    (artifact,) = manifest.artifacts
    path = tmp_path / artifact.path
    model = onnx.load(path)
    (mean,) = [each for each in model.graph.initializer if each.name == "pixel_mean"]
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + np.float32(0.5), mean.name))
    onnx.save(model, path)
    record = replace(artifact, sha256=sha256_of(path), size_bytes=path.stat().st_size)
    write_manifest(tmp_path, replace(manifest, artifacts=(record,)))
    (row,) = verified(tmp_path, small_data, "onnxruntime")
    assert row.status == "failed"
    assert row.cause is not None
    assert row.cause.kind == "other normalisation"
    assert "The file normalises by mean 0.6307 and std 0.3081" in row.cause.text
    assert "the input spec of its checkpoint has mean 0.1307 and std 0.3081" in row.cause.text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic"])
def test_inexact_embedded_files_keep_their_expected_error(
    tmp_path: Path, small_data: Path, precision: Precision
) -> None:
    export(
        CHECKPOINT, out=tmp_path, formats=["onnx"], precisions=[precision], embed_preprocessing=True
    )
    rows = verified(tmp_path, small_data, "onnxruntime")
    for row in rows:
        assert row.status in ("passed", "undecided"), row.reason
        assert row.expected_error is not None
        assert row.rms_error is not None
        assert row.rms_error < 2 * row.expected_error.rms


def colour_checkpoint(folder: Path, spec: InputSpec) -> Path:
    """A checkpoint of the user's classifier in tests/colour.py."""
    from colour import CLASSES, ColourNet
    from safetensors.torch import save_file

    save_file(ColourNet().state_dict(), folder / "weights.safetensors")
    toolkit.import_weights(
        folder / "weights.safetensors",
        out=folder / "checkpoint",
        model=ModelSpec(factory="colour:ColourNet"),
        input_spec=spec,
        classes=CLASSES,
    )
    return folder / "checkpoint"


def other_order(model: nn.Module, spec: InputSpec) -> nn.Module:
    colours: Literal["RGB", "BGR"] = "RGB" if spec.colours == "BGR" else "BGR"
    return WithPreprocessing(model, replace(spec, colours=colours))


@pytest.mark.slow
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
def test_colour_order_in_the_file_is_checked(
    tmp_path: Path, colours: Literal["RGB", "BGR"]
) -> None:
    """A healthy file passes; one with the other order fails and is named."""
    from colour import INPUT, PIXELS, logits_of_pixels

    spec = replace(INPUT, colours=colours)
    checkpoint = colour_checkpoint(tmp_path, spec)
    given = PIXELS[:, ::-1] if colours == "BGR" else PIXELS
    labels = logits_of_pixels(np.ascontiguousarray(given)).argmax(1)
    data = write_images(tmp_path / "data", PIXELS, [int(each) for each in labels])
    out = tmp_path / "out"
    export(
        checkpoint, out=out, formats=["onnx"], embed_preprocessing=True, model="colour:ColourNet"
    )
    (row,) = verified(out, data, "onnxruntime")
    assert row.status in ("passed", "undecided"), row.reason
    plant(out, other_order, checkpoint)
    (row,) = verified(out, data, "onnxruntime")
    assert row.status == "failed"
    assert row.cause is not None
    assert row.cause.kind == "channels swapped"
    assert ("RGB for BGR" if colours == "BGR" else "BGR for RGB") in row.cause.text


def test_record_that_hides_the_uint8_input_does_not_pass(tmp_path: Path, small_data: Path) -> None:
    """Floats are not cast to bytes, nor bytes to floats."""
    export(CHECKPOINT, out=tmp_path, formats=["onnx"], embed_preprocessing=True)
    manifest = read_manifest(tmp_path)
    (artifact,) = manifest.artifacts
    write_manifest(
        tmp_path, replace(manifest, artifacts=(replace(artifact, embeds_preprocessing=False),))
    )
    for row in verified(tmp_path, small_data, "onnxruntime", "openvino"):
        assert row.status not in ("passed", "undecided")


@pytest.mark.slow
def test_bench_and_tune_and_run_take_files_with_uint8_input(
    tmp_path: Path, small_data: Path
) -> None:
    out = tmp_path / "out"
    export(CHECKPOINT, out=out, formats=["onnx"])
    export(CHECKPOINT, out=out, formats=["onnx"], embed_preprocessing=True)
    plan = toolkit.Plan(min_time_s=0.2, min_rounds=6, passes=1)
    session = toolkit.SessionOptions(threads=1, batch_size=10)
    benched = toolkit.bench(
        [out], runtimes=["onnxruntime"], data=small_data, session=session, plan=plan
    )
    names = {row.name: row.embeds_preprocessing for row in benched.measurements}
    assert names["onnxruntime fp32, uint8 input"]
    assert not names["onnxruntime fp32"]
    assert all(row.status in ("measured", "too_short") for row in benched.measurements)
    tuned = toolkit.tune([out], runtimes=["onnxruntime"], data=small_data, batch_size=10)
    kinds = {each.configuration.embeds_preprocessing for each in tuned.trials}
    assert kinds == {False, True}
    done = toolkit.run(
        checkpoint=CHECKPOINT,
        quick=True,
        out=tmp_path / "run",
        formats=["onnx", "ncnn"],
        runtimes=["onnxruntime", "ncnn"],
        embed_preprocessing=True,
        data=small_data,
    )
    rows = {row.format: row for row in done.results.parity}
    assert rows["onnx"].status in ("passed", "undecided")
    assert rows["onnx"].embeds_preprocessing
    assert rows["ncnn"].status == "unsupported"
    assert "cannot take uint8 input" in str(rows["ncnn"].reason)


def test_damaged_embedded_file_is_refused(tmp_path: Path, small_data: Path) -> None:
    export(CHECKPOINT, out=tmp_path, formats=["torchscript"], embed_preprocessing=True)
    path = tmp_path / "mnist-cnn.uint8-input.torchscript"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated or replaced"):
        verified(tmp_path, small_data, "torchscript")
