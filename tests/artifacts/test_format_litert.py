"""LiteRT: the content of its files, and the attestation of its sessions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour import CLASSES, IMAGES, SHAPE, error_ratio, logits_of, request_for, source_of
from torch import Tensor, nn

from toolkit.artifacts.formats import FORMATS, Written, load_exporter
from toolkit.errors import ArtifactError
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes import RUNTIMES, Session

REQUIRED = os.environ.get("TOOLKIT_REQUIRED_RUNTIMES", "").split(",")

pytestmark = pytest.mark.skipif(
    bool(FORMATS["litert"].missing() or RUNTIMES["litert"].version() is None)
    and "litert" not in REQUIRED,
    reason=f"litert is not installed: {FORMATS['litert'].install}",
)


MANY = np.random.default_rng(1).standard_normal((103, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """The model in each precision. Read-only."""
    from toolkit.artifacts.formats.litert import export

    folders: dict[Precision, Path] = {}
    for precision in FORMATS["litert"].precisions:
        folders[precision] = tmp_path_factory.mktemp("exports") / "model.litert"
        written = export(request_for(folders[precision], precision))
        assert written == Written(batch_sizes=(100, 1))
    return folders


def opened(folder: Path, *, threads: int = 1) -> Session:
    from toolkit.sessions.runtimes.litert import load

    return load(source_of(folder, "litert"), Settings(threads=threads))


def operations_of(file: Path) -> list[tuple[str, set[str]]]:
    """Return the operations in order, with the types of their inputs, as stored in the file."""
    from ai_edge_litert.interpreter import Interpreter

    graph = Interpreter(str(file))
    types = {each["index"]: each["dtype"].__name__ for each in graph.get_tensor_details()}
    return [
        (each["op_name"], {types[at] for at in each["inputs"]}) for each in graph._get_ops_details()
    ]


def kinds_of(file: Path) -> dict[str, set[str]]:
    """Return operation → input types of the last operation with that name."""
    return dict(operations_of(file))


@pytest.mark.parametrize(
    ("precision", "largest"), [("fp32", 1e-5), ("fp16", 5e-3), ("int8", 0.1), ("int8-dynamic", 0.1)]
)
def test_every_precision_matches_the_model_and_attests_itself(
    folders: dict[Precision, Path], precision: Precision, largest: float
) -> None:
    session = opened(folders[precision], threads=2)
    found = session.run(MANY)  # a hundred, and three single images
    assert np.abs(found - logits_of(MANY)).max() < largest
    singles = [session.run(MANY[at : at + 1]) for at in range(len(MANY))]
    np.testing.assert_allclose(found, np.concatenate(singles), atol=1e-4, rtol=0)
    attested = session.attestation
    assert (attested.precision, attested.threads, attested.device) == (precision, 2, "cpu")
    assert attested.provider.startswith("XNNPACK")


def test_stored_weights_have_the_type_of_the_precision(
    folders: dict[Precision, Path],
) -> None:
    kinds = {precision: kinds_of(path / "batch-1.tflite") for precision, path in folders.items()}
    assert "float16" in kinds["fp16"]["DEQUANTIZE"]
    assert kinds["int8-dynamic"]["FULLY_CONNECTED"] == {"float32", "int8"}
    assert kinds["int8"]["CONV_2D"] == {"int8", "int32"}
    sizes = {
        precision: (path / "batch-1.tflite").stat().st_size for precision, path in folders.items()
    }
    assert sizes["int8-dynamic"] < sizes["fp16"] < sizes["fp32"]


def test_int8_keeps_the_logits_layer_in_float(folders: dict[Precision, Path]) -> None:
    operations = operations_of(folders["int8"] / "batch-1.tflite")
    hidden, last = (types for name, types in operations if name == "FULLY_CONNECTED")
    assert hidden == {"int8", "int32"}
    assert last == {"float32"}


def test_input_and_output_are_named_and_float32(folders: dict[Precision, Path]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    for folder in folders.values():
        for size in (1, 100):
            runner = Interpreter(str(folder / f"batch-{size}.tflite")).get_signature_runner()
            image = np.zeros((size, *SHAPE), np.float32)
            logits = runner(input=image)["logits"]
            assert (logits.shape, logits.dtype) == ((size, CLASSES), np.float32)


def test_files_that_have_computed_are_named(folders: dict[Precision, Path]) -> None:
    """The first call does not count: a worker makes it with noise."""
    session = opened(folders["fp32"])
    session.run(MANY)
    assert not session.attestation.files
    session.run(MANY[:100])
    assert list(session.attestation.files) == ["batch-100.tflite"]
    session.run(MANY[:3])
    assert list(session.attestation.files) == ["batch-1.tflite", "batch-100.tflite"]


def test_reduced_precision_mark_is_detected(folders: dict[Precision, Path], tmp_path: Path) -> None:
    """The mark is a name in the file's metadata; here it follows the model, where LiteRT ignores
    it."""
    content = (folders["fp32"] / "batch-1.tflite").read_bytes()
    (tmp_path / "batch-1.tflite").write_bytes(content + b"reduced_precision_support")
    session = opened(tmp_path)
    session.run(MANY[:1])
    found = session.attestation
    assert (found.precision, found.arithmetic) == ("fp16", "unknown")


def test_caller_owns_the_logits(folders: dict[Precision, Path]) -> None:
    session = opened(folders["fp32"])
    first = session.run(IMAGES[:1])
    kept = first.copy()
    session.run(IMAGES[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_truncated_file_is_an_error(
    folders: dict[Precision, Path], tmp_path: Path, part: float
) -> None:
    content = (folders["fp32"] / "batch-1.tflite").read_bytes()
    (tmp_path / "batch-1.tflite").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ArtifactError, match=r"not a \.tflite file .* export it again"):
        opened(tmp_path)


def test_folder_without_a_file_for_one_image_is_an_error(
    folders: dict[Precision, Path], tmp_path: Path
) -> None:
    (tmp_path / "batch-100.tflite").write_bytes((folders["fp32"] / "batch-100.tflite").read_bytes())
    with pytest.raises(ArtifactError, match=r"batch sizes \[100\], expected one for a single"):
        opened(tmp_path)


def test_file_of_another_shape_is_an_error(folders: dict[Precision, Path]) -> None:
    from toolkit.sessions.runtimes.litert import load

    source = source_of(folders["fp32"], "litert")
    other = replace(source, artifact=replace(source.artifact, input_shape=(3, 28, 28)))
    with pytest.raises(ArtifactError, match=r"\[1, 3, 31, 29\].*expected float32 \[N, 3, 28, 28\]"):
        load(other, Settings(threads=1))


class OnePixel(nn.Module):
    """litert-torch folds its grouped layer on a 1x1 map differently for one image and for a
    hundred."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image)).mean((2, 3), keepdim=True)
        logits: Tensor = self.out(nn.functional.hardswish(self.norm(self.grouped(x))).flatten(1))
        return logits


def test_int8_with_different_graphs_exports_one_file(tmp_path: Path) -> None:
    from toolkit.artifacts.formats.litert import export

    torch.manual_seed(0)
    model = OnePixel()
    request = request_for(tmp_path / "model.litert", "int8", model=model)
    assert export(request) == Written(batch_sizes=(1,))
    assert [file.name for file in request.path.iterdir()] == ["batch-1.tflite"]
    found = opened(request.path).run(IMAGES)
    assert np.abs(found - logits_of(IMAGES, model)).max() < 0.1


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_session_error_matches_the_expected_error(precision: Precision, tmp_path: Path) -> None:
    path = tmp_path / "model.litert"
    written = load_exporter(FORMATS["litert"]).export(request_for(path, precision, measured=IMAGES))
    logits = opened(path).run(IMAGES)
    assert 0.5 < error_ratio(written, logits) < 1.5
