"""MNN: storage of the weights, arrays in the session's own memory, and damaged files."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
import pytest

pytest.importorskip("MNN")

from colour import CLASSES, IMAGES, SHAPE, error_ratio, logits_of, request_for, source_of
from torch import Tensor, nn

from toolkit.artifacts.formats.mnn import export, why_failed
from toolkit.artifacts.parsers.mnn import names_other_files, weight_precision
from toolkit.errors import ArtifactError, InputError, Unsupported
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes.mnn import load


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier in float32. Read-only."""
    path = tmp_path_factory.mktemp("mnn") / "model.mnn"
    export(request_for(path))
    return path


@pytest.mark.parametrize(
    ("precision", "tolerance", "smaller"),
    [("fp32", 1e-5, 1.01), ("fp16", 1e-2, 0.6), ("int8-weights", 1e-1, 0.5)],
)
def test_exported_user_model_gives_the_same_logits(
    file: Path, tmp_path: Path, precision: Precision, tolerance: float, smaller: float
) -> None:
    path = tmp_path / "model.mnn"
    export(request_for(path, precision))
    session = load(source_of(path, "mnn", precision), Settings(threads=1))
    np.testing.assert_allclose(session.run(IMAGES), logits_of(IMAGES), atol=tolerance, rtol=0)
    assert session.attestation.precision == weight_precision(path.read_bytes()) == precision
    assert path.stat().st_size < smaller * file.stat().st_size


class OneByOne(nn.Module):
    """No kernel that the Winograd method applies to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(x)).mean((2, 3))
        return logits


def test_plain_setting_switches_winograd_off(file: Path, tmp_path: Path) -> None:
    source = source_of(file, "mnn")
    usual, plain = (load(source, Settings(threads=1, plain=each)) for each in (False, True))
    assert usual.attestation.arithmetic == "float32 (Winograd)"
    assert plain.attestation.arithmetic == "float32"
    assert plain.attestation.evidence["arithmetic"] == "as asked"
    np.testing.assert_allclose(plain.run(IMAGES), usual.run(IMAGES), atol=1e-5, rtol=0)
    path = tmp_path / "one.mnn"
    export(request_for(path, model=OneByOne()))
    assert load(source_of(path, "mnn"), Settings(threads=1)).attestation.arithmetic == "float32"


def test_nothing_is_left_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    export(request_for(Path("model.mnn"), "fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.mnn"]


def test_caller_owns_the_logits(file: Path) -> None:
    session = load(source_of(file, "mnn"), Settings(threads=1))
    first = session.run(IMAGES[:2])
    kept = first.copy()
    session.run(IMAGES[2:4])
    np.testing.assert_array_equal(first, kept)


def test_batch_size_may_change_between_calls(file: Path) -> None:
    session = load(source_of(file, "mnn"), Settings(threads=1))
    wanted = session.run(IMAGES[:9])
    for size in (1, 4, 9, 4):
        np.testing.assert_allclose(session.run(IMAGES[:size]), wanted[:size], atol=1e-5, rtol=0)


def test_float64_in_any_memory_order_does_not_crash(file: Path) -> None:
    session = load(source_of(file, "mnn"), Settings(threads=1))
    images = IMAGES[:2]
    turned = np.asfortranarray(images.astype(np.float64))
    np.testing.assert_array_equal(session.run(turned), session.run(images))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 3, 29, 31), (0, *SHAPE), SHAPE])
def test_input_of_another_shape_is_refused(file: Path, shape: tuple[int, ...]) -> None:
    session = load(source_of(file, "mnn"), Settings(threads=1))
    with pytest.raises(InputError, match=r"expected \[N, 3, 31, 29\] with N >= 1"):
        session.run(np.zeros(shape, np.float32))


def test_streams_of_several_threads_are_refused(file: Path) -> None:
    with pytest.raises(Unsupported, match="2 streams of 2 threads are not 4 threads"):
        load(source_of(file, "mnn"), Settings(threads=2, streams=2))


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, kept: float) -> None:
    data, cut = file.read_bytes(), tmp_path / "cut.mnn"
    cut.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ArtifactError, match="toolkit export --format mnn"):
        load(source_of(cut, "mnn"), Settings(threads=1))


def test_session_error_matches_the_expected_error(tmp_path: Path) -> None:
    path = tmp_path / "model.mnn"
    written = export(request_for(path, "int8-weights", measured=IMAGES))
    logits = load(source_of(path, "mnn", "int8-weights"), Settings(threads=1)).run(IMAGES)
    assert 0.5 < error_ratio(written, logits) < 1.5


def net_with(*, other_file: bool, nested: bool) -> bytes:
    """A net of one operator, which may name another file, and may be in a subgraph."""
    builder = flatbuffers.Builder()

    def vector(table: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(table)
        return int(builder.EndVector())

    def table(slots: int, **values: int) -> int:
        builder.StartObject(slots)
        for slot, value in values.items():
            builder.PrependUOffsetTRelativeSlot(int(slot[1:]), value, 0)
        return int(builder.EndObject())

    path = builder.CreateString("/etc/passwd")
    ops = vector(table(8, _7=path) if other_file else table(8, _3=path))
    builder.Finish(table(12, _10=vector(table(5, _4=ops))) if nested else table(12, _3=ops))
    return bytes(builder.Output())


@pytest.mark.parametrize("nested", [False, True])
def test_operator_that_names_another_file_is_found(nested: bool) -> None:
    assert names_other_files(net_with(other_file=True, nested=nested))
    assert not names_other_files(net_with(other_file=False, nested=nested))


def test_weights_beside_the_file_are_refused(file: Path, tmp_path: Path) -> None:
    """MNN would read them, but no checksum covers them."""
    assert not names_other_files(file.read_bytes())
    path = tmp_path / "model.mnn"
    path.write_bytes(file.read_bytes())
    (tmp_path / "model.mnn.weight").write_bytes(b"")
    with pytest.raises(ArtifactError, match="keeps weights in other files"):
        load(source_of(path, "mnn"), Settings(threads=1))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "Start to Optimize the MNN Net...\n[02:26:45] :220: These Op Not Support: ONNX::Foo \n"
            "Converted Failed!\n",
            "These Op Not Support: ONNX::Foo",
        ),
        (
            "[02:26:45] /x/onnxConverter.cpp:35: Check failed: success ==> read onnx model failed: "
            "a.onnx\n[ERROR] Model file is not onnx model.\n",
            "Check failed: success ==> read onnx model failed: a.onnx",
        ),
        ("Converted Failed!\n", "Converted Failed!"),
        ("", "it printed nothing"),
    ],
)
def test_reason_of_the_converter_is_in_its_output(output: str, reason: str) -> None:
    assert why_failed(output) == reason
