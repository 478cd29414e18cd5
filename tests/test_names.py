"""Names and paths as people write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Cli

from toolkit import names
from toolkit.artifacts.export import choose_artifacts
from toolkit.artifacts.formats import FORMATS, choose_formats, find_format
from toolkit.errors import SettingError, UnknownNameError
from toolkit.files.paths import as_path, as_paths, optional_path
from toolkit.schema import TRAITS
from toolkit.sessions.runtimes import RUNTIMES, find_runtime, runtime_names

KNOWN: dict[str, list[str]] = {
    "format": [*FORMATS],
    "runtime": [*RUNTIMES],
    "precision": [*TRAITS],
    "device": ["cpu", "cuda"],
}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("tflite", "litert"),
        ("TFLite", "litert"),
        ("ONNX", "onnx"),
        ("torch_script", "torchscript"),
        ("jit", "torchscript"),
        ("Core ML", "coreml"),
        ("pte", "executorch"),
        ("ort", "ort"),
    ],
)
def test_format_is_found_by_other_names(given: str, name: str) -> None:
    assert find_format(given).name == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("ort", "onnxruntime"),
        ("ONNX Runtime", "onnxruntime"),
        ("trt", "tensorrt"),
        ("TensorRT", "tensorrt"),
        ("tflite", "litert"),
        ("torch", "eager"),
        ("torch.compile", "compile"),
        ("cuda-graphs", "cudagraph"),
        ("null", "no-op"),
        ("noop", "no-op"),
    ],
)
def test_runtime_is_found_by_other_names(given: str, name: str) -> None:
    assert find_runtime(given).name == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("fp-16", "fp16"),
        ("FP16", "fp16"),
        ("half", "fp16"),
        ("float32", "fp32"),
        ("int8_dynamic", "int8-dynamic"),
        ("weight-only", "int8-weights"),
    ],
)
def test_precision_is_found_by_other_names(given: str, name: str) -> None:
    assert names.known_precisions(given) == [name]


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        ("format", "onxx", "onnx"),
        ("format", "openvno", "openvino"),
        ("format", "tensorrt", "onnx"),
        ("format", "torch", "torchscript or pt2"),
        ("runtime", "onnx", "onnxruntime or openvino or tract"),
        ("runtime", "onnxruntme", "onnxruntime"),
        ("precision", "in8", "int8"),
        ("precision", "quantized", "int8 or int8-dynamic or int8-weights"),
    ],
)
def test_mistyped_name_is_an_error_that_says_what_may_be_meant(
    kind: str, given: str, meant: str
) -> None:
    known = [each for each in KNOWN[kind] if each not in ("fp64", "bf16")]
    with pytest.raises(
        UnknownNameError, match=rf"unknown {kind} '{given}': did you mean {meant}"
    ) as caught:
        names.known_name(kind, given, known)
    assert str(caught.value).endswith(f"Known: {', '.join(known)}")


def test_name_like_no_other_lists_the_known_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown format 'gguf'; known: torchscript, onnx"):
        find_format("gguf")
    with pytest.raises(UnknownNameError, match="unknown format ''"):
        choose_formats([""])


@pytest.mark.parametrize("kind", names._ALIASES)
def test_no_alias_hides_a_name_and_each_leads_to_one(kind: str) -> None:
    plain = {names._plain(name) for name in KNOWN[kind]}
    for alias, name in names._ALIASES[kind].items():
        assert name in KNOWN[kind]
        assert alias == names._plain(alias)
        assert alias not in plain


def test_names_are_lists_single_texts_or_have_commas() -> None:
    assert [row.name for row in choose_formats("onnx")] == ["onnx"]
    assert [row.name for row in choose_formats(["onnx, tflite", "onnx"])] == ["onnx", "litert"]
    assert runtime_names("ort,openvino") == ["onnxruntime", "openvino"]
    assert runtime_names(()) == []
    assert [row.name for row in choose_formats("all")][: len(FORMATS)] == [*FORMATS]
    assert choose_artifacts("tflite", "half") == [(FORMATS["litert"], "fp16")]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("export", "nowhere", "--format", "onxx"), "onnx"),
        (("export", "nowhere", "--precision", "fp61"), "fp16"),
        (("verify", "nowhere", "--runtime", "onnxruntme"), "onnxruntime"),
        (("bench", "nowhere", "--runtime", "opnvino"), "openvino"),
        (("bench", "nowhere", "--baseline", "egaer"), "eager"),
        (("tune", "nowhere", "--runtime", "torchscrpt"), "torchscript"),
        (("tune", "nowhere", "--precision", "in8"), "int8"),
        (("run", "--runtime", "torchscrpt"), "torchscript"),
    ],
)
def test_names_are_checked_before_any_file_is_read(
    cli: Cli, arguments: tuple[str, ...], meant: str
) -> None:
    """The folder does not exist, which would be the next error."""
    result = cli(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert re.match(rf"Error: unknown \w+ '\w+': did you mean {meant}", line)


def test_paths_are_text_or_path_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert as_path("a/b") == as_path(Path("a/b")) == Path("a/b")
    assert as_path("~/a") == Path("/home/somebody/a")
    assert as_paths("a") == as_paths(Path("a")) == as_paths(["a"]) == [Path("a")]
    assert as_paths(("a", Path("b"))) == [Path("a"), Path("b")]
    assert optional_path(None) is None


@pytest.mark.parametrize("given", [None, 3, b"a", ""])
def test_what_is_no_path_is_refused_with_the_name_of_the_argument(given: object) -> None:
    with pytest.raises(SettingError, match="out: expected a path as text or Path, got"):
        as_path(given, "out")  # type: ignore[arg-type]
