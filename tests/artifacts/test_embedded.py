"""Preprocessing in the graph: the same arithmetic, its own names and records, refusals with a
reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, Cli
from torch import nn

from toolkit.artifacts.embedded import exported_model
from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.artifacts.inputs import inputs_of
from toolkit.artifacts.manifest import read_manifest
from toolkit.data.preprocessing import normalise
from toolkit.errors import InputError, SettingError, Unsupported
from toolkit.schema import Artifact, InputSpec, Precision, Settings
from toolkit.sessions.checked import CheckedSession
from toolkit.sessions.runtimes import RUNTIMES
from toolkit.sessions.runtimes.no_op import NoOpSession

GREY = InputSpec(shape=(1, 9, 7), mean=(0.1307,), std=(0.3081,))
RGB = InputSpec(shape=(3, 9, 7), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def pixels(spec: InputSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """All bytes, in every channel."""
    random = np.random.default_rng(0)
    return random.permuted(np.resize(np.arange(256, dtype=np.uint8), (20, *spec.shape)), axis=1)


@pytest.mark.parametrize("spec", [GREY, RGB, replace(RGB, colours="BGR")])
def test_embedded_preprocessing_computes_the_same_bits(spec: InputSpec) -> None:
    images = pixels(spec)
    model, example = exported_model(nn.Flatten(), spec, embed=True)
    given = torch.from_numpy(inputs_of(images, spec, embedded=True))
    with torch.inference_mode():
        found = model(given).numpy()
    np.testing.assert_array_equal(found, normalise(images, spec).reshape(len(images), -1))
    assert (example.dtype, tuple(example.shape)) == (torch.uint8, (2, *spec.shape))


def test_embedded_artifact_takes_rgb_whatever_the_model_expects() -> None:
    images = pixels(RGB)
    np.testing.assert_array_equal(inputs_of(images, RGB, embedded=True), images)
    in_bgr = replace(RGB, colours="BGR")
    np.testing.assert_array_equal(inputs_of(images, in_bgr, embedded=True), images[:, ::-1])


def test_input_of_an_artifact_is_writable_memory_of_its_own() -> None:
    images = pixels(RGB)
    images.flags.writeable = False
    for embedded in (False, True):
        found = inputs_of(images, RGB, embedded=embedded)
        assert found.flags.writeable
        assert found.flags.c_contiguous
        assert not np.shares_memory(found, images)


def test_model_that_works_in_place_leaves_the_images_alone() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2).flatten(1)

    model, _ = exported_model(InPlace(), GREY, embed=True)
    images = torch.from_numpy(pixels(GREY))
    before = images.clone()
    with torch.inference_mode():
        model(images)
    assert torch.equal(images, before)


def test_format_without_uint8_input_fails_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    result = cli(
        *("export", CHECKPOINT, "--embed-preprocessing", "--out", tmp_path),
        *("--format", "ncnn", "--format", "coreml"),
    )
    assert result.exit_code == 3
    for name in ("ncnn", "coreml"):
        (line,) = [each for each in result.stdout.splitlines() if each.startswith(f"{name} fp32")]
        assert f"{name} fp32, uint8 input: unsupported" in line
        assert f"format {name} fp32 cannot take uint8 input: " in line
        assert line.endswith("export it without --embed-preprocessing")


def test_every_format_takes_uint8_input_in_each_precision_or_says_why() -> None:
    for row in FORMATS.values():
        assert set(row.uint8) <= set(row.precisions)
        if set(row.uint8) != set(row.precisions):
            assert row.float_only != FORMATS["onnx"].float_only, row.name


def test_every_format_with_uint8_input_has_a_runtime_that_takes_it() -> None:
    for row in FORMATS.values():
        for precision in row.uint8:
            assert any(each.uint8 and each.loads(row.name, precision) for each in RUNTIMES.values())


@pytest.mark.parametrize("runtime", ["ncnn", "coreml"])
def test_runtime_without_uint8_input_refuses_such_a_file(runtime: str) -> None:
    row = replace(RUNTIMES[runtime], systems=None)
    row.refuse(Settings(threads=1))
    with pytest.raises(Unsupported, match=rf"{runtime} takes float32 input, but .* uint8"):
        row.refuse(Settings(threads=1), uint8=True)


def test_both_kinds_lie_in_one_folder(tmp_path: Path) -> None:
    export(CHECKPOINT, out=tmp_path, formats=["torchscript"])
    done = export(CHECKPOINT, out=tmp_path, formats=["torchscript"], embed_preprocessing=True)
    assert done.written == ("mnist-cnn.uint8-input.torchscript",)
    records = read_manifest(tmp_path).artifacts
    assert [(each.path, each.embeds_preprocessing) for each in records] == [
        ("mnist-cnn.torchscript", False),
        ("mnist-cnn.uint8-input.torchscript", True),
    ]
    for embed in (False, True):
        again = export(CHECKPOINT, out=tmp_path, formats=["torchscript"], embed_preprocessing=embed)
        assert again.written == ()
        assert len(again.artifacts) == 2


def test_float_samples_have_no_preprocessing_to_embed(own_checkpoint: Path, tmp_path: Path) -> None:
    path = own_checkpoint / "checkpoint.json"
    record = json.loads(path.read_text())
    record["input"]["dtype"] = "float32"
    path.write_text(json.dumps(record))
    with pytest.raises(SettingError, match=r"--embed-preprocessing: the samples .* are float32"):
        export(own_checkpoint, out=tmp_path / "out", embed_preprocessing=True)
    assert not (tmp_path / "out").exists()


def artifact(precision: Precision = "fp32") -> Artifact:
    return Artifact(
        format="onnx",
        precision=precision,
        path="it.uint8-input.onnx",
        size_bytes=1,
        sha256="",
        checkpoint_sha256="",
        spec_sha256="",
        input_shape=GREY.shape,
        classes=10,
        embeds_preprocessing=True,
    )


def test_session_refuses_floats_where_bytes_are_expected_and_the_reverse() -> None:
    images = pixels(GREY)
    session = CheckedSession(NoOpSession(10, Settings(threads=1)), artifact())
    assert session.run(images).shape == (20, 10)
    with pytest.raises(InputError, match=r"dtype float32, expected uint8 \[N, 1, 9, 7\]"):
        session.run(normalise(images, GREY))
    plain = CheckedSession(
        NoOpSession(10, Settings(threads=1)), replace(artifact(), embeds_preprocessing=False)
    )
    with pytest.raises(InputError, match=r"dtype uint8, expected float32 \[N, 1, 9, 7\]"):
        plain.run(images)
