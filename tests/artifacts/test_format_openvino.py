"""The IR folder matches its precision, for any model, and OpenVINO attests it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import colour
import numpy as np
import pytest

pytest.importorskip("openvino", reason="pip install 'toolkit[openvino]'")
pytest.importorskip("nncf", reason="pip install 'toolkit[openvino]'")

from toolkit.artifacts.formats import Written
from toolkit.artifacts.formats.onnx import export as export_onnx
from toolkit.artifacts.formats.openvino import export
from toolkit.artifacts.rounding.openvino_file import measure
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes import Session
from toolkit.sessions.runtimes import openvino as openvino_runtime
from toolkit.sessions.runtimes.openvino import load

MOVED: dict[Precision, float] = {"fp32": 1e-6, "fp16": 1e-3, "int8": 0.03}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    root = tmp_path_factory.mktemp("openvino")
    paths: dict[Precision, Path] = {
        precision: root / f"{precision}.openvino" for precision in MOVED
    }
    for precision, path in paths.items():
        assert export(colour.request_for(path, precision)) == Written()  # exact everywhere
    return paths


def session_of(path: Path, precision: Precision, format: str = "openvino") -> Session:
    return load(colour.source_of(path, format, precision), Settings(threads=1))


def nodes_of(path: Path) -> list[Any]:
    import openvino

    return list(openvino.Core().read_model(path / "model.xml").get_ordered_ops())


@pytest.mark.parametrize("precision", MOVED)
def test_session_computes_the_model_and_attests_its_precision(
    folders: dict[Precision, Path], precision: Precision
) -> None:
    path = folders[precision]
    assert sorted(file.name for file in path.iterdir()) == ["model.bin", "model.xml"]
    session = session_of(path, precision)
    expected = colour.logits_of(colour.IMAGES)
    for batch in (colour.IMAGES, colour.IMAGES[:1]):
        logits = session.run(batch)
        np.testing.assert_allclose(logits, expected[: len(batch)], atol=MOVED[precision], rtol=0)
    assert session.attestation.precision == precision


def test_fp16_holds_its_matrices_in_float16(folders: dict[Precision, Path]) -> None:
    constants = [node for node in nodes_of(folders["fp16"]) if node.get_type_name() == "Constant"]
    large = [node for node in constants if node.get_output_size() and node.data.ndim >= 2]
    floats = {
        node.data.dtype for node in large if node.data.size > 20 and node.data.dtype.kind == "f"
    }
    assert floats == {np.dtype(np.float16)}


def matrices_of(path: Path) -> list[np.ndarray]:
    """Return the int8 weights."""
    constants = [node for node in nodes_of(path) if node.get_type_name() == "Constant"]
    return [node.data for node in constants if node.data.dtype == np.int8 and node.data.ndim >= 2]


def test_int8_keeps_the_logits_layer_in_float(folders: dict[Precision, Path]) -> None:
    products = [node for node in nodes_of(folders["int8"]) if node.get_type_name() == "MatMul"]
    assert len(products) == 2
    feeds = [product.input_value(0).get_node() for product in products]
    assert feeds[0].get_type_name() == "Reshape"  # the flatten
    assert feeds[0].input_value(0).get_node().get_type_name() == "FakeQuantize"
    assert feeds[1].get_type_name() != "FakeQuantize"
    assert len(matrices_of(folders["int8"])) == 3  # the depthwise kernel is rounded, not packed


def test_int8_weights_use_seven_bits_only_for_avx2(
    folders: dict[Precision, Path], tmp_path: Path
) -> None:
    path = tmp_path / "full.openvino"
    written = export(colour.request_for(path, "int8", isas=("vnni", "arm")))
    assert written == Written(isas=("vnni", "arm"))
    largest = [
        max(np.abs(each.astype(int)).max() for each in matrices_of(folder))
        for folder in (folders["int8"], path)
    ]
    assert largest[0] <= 64
    assert largest[1] > 64


def test_one_layer_model_cannot_be_exported_to_int8(tmp_path: Path) -> None:
    request = colour.request_for(tmp_path / "m.openvino", "int8", model=colour.OneLayer())
    with pytest.raises(
        ValueError, match="no layer could be quantised, except the one that produces the logits"
    ):
        export(request)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_session_reads_onnx_and_attests_its_precision(tmp_path: Path, precision: Precision) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(colour.request_for(path, precision))
    session = session_of(path, precision, "onnx")
    logits = session.run(colour.IMAGES)
    np.testing.assert_allclose(
        logits, colour.logits_of(colour.IMAGES), atol=MOVED[precision], rtol=0
    )
    assert session.attestation.precision == precision


def test_dynamic_int8_is_attested_as_float32_arithmetic(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(colour.request_for(path, "int8-dynamic"))
    session = session_of(path, "int8-dynamic", "onnx")
    np.testing.assert_allclose(
        session.run(colour.IMAGES), colour.logits_of(colour.IMAGES), atol=0.03
    )
    found = session.attestation
    assert (found.precision, found.arithmetic) == ("int8-weights", "float32 on int8 weights")


@pytest.mark.parametrize("hint", ["bf16", "f16"])
def test_reduced_precision_is_read_from_kernel_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: str
) -> None:
    """If the CPU supports it; otherwise OpenVINO computes in float32 and reports that."""
    path = tmp_path / "m.openvino"
    export(colour.request_for(path, "fp32"))
    usual = openvino_runtime._properties(1)
    monkeypatch.setattr(
        openvino_runtime,
        "_properties",
        lambda _: {**usual, "INFERENCE_PRECISION_HINT": hint, "EXECUTION_MODE_HINT": "PERFORMANCE"},
    )
    session = session_of(path, "fp32")
    logits = session.run(colour.IMAGES)
    error = float(np.abs(logits - colour.logits_of(colour.IMAGES)).max())
    found = session.attestation
    plain = (found.precision, found.arithmetic) == ("fp32", "float32")
    assert plain == (error < 1e-5)
    assert found.evidence["arithmetic"] == "read back"


def test_input_may_have_any_name(tmp_path: Path) -> None:
    import openvino

    path = tmp_path / "m.openvino"
    export(colour.request_for(path, "fp32"))
    model = openvino.Core().read_model(
        (path / "model.xml").read_bytes(), (path / "model.bin").read_bytes()
    )
    model.input(0).set_names({"pixels"})
    renamed = tmp_path / "renamed.openvino"
    renamed.mkdir()
    openvino.save_model(model, renamed / "model.xml", compress_to_fp16=False)
    logits = session_of(renamed, "fp32").run(colour.IMAGES)
    np.testing.assert_allclose(logits, colour.logits_of(colour.IMAGES), atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["model.xml", "model.bin"])
def test_truncated_files_are_errors(tmp_path: Path, part: str) -> None:
    path = tmp_path / "m.openvino"
    export(colour.request_for(path, "fp32"))
    data = (path / part).read_bytes()
    (path / part).write_bytes(data[: len(data) // 2])
    with pytest.raises(RuntimeError):
        session_of(path, "fp32")


EXPORT = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
        print("refused", event, arguments, file=sys.stderr)
        raise SystemExit(7)
from pathlib import Path
import colour
request = colour.request_for(Path(sys.argv[1]), "int8")
from toolkit.artifacts.formats.openvino import export
sys.addaudithook(refuse)
export(request)
"""


def test_export_uses_no_network_and_does_not_write_to_home(tmp_path: Path) -> None:
    """Run without the variables of CI, because libraries may disable telemetry there."""
    home = tmp_path / "home"
    home.mkdir()
    dropped = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    tests = Path(__file__).parent.parent
    environment["HOME"] = str(home)
    environment["PYTHONPATH"] = os.pathsep.join((str(tests), str(tests.parent)))
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(tmp_path / "m.openvino")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


def test_session_error_matches_the_expected_error(tmp_path: Path) -> None:
    path = tmp_path / "model.openvino"
    written = export(colour.request_for(path, "int8", measured=colour.IMAGES))
    logits = session_of(path, "int8").run(colour.IMAGES)
    assert 0.5 < colour.error_ratio(written, logits) < 1.5


def test_expected_error_is_measured_from_the_file_of_any_origin(
    folders: dict[Precision, Path], tmp_path: Path
) -> None:
    """NNCF's defaults: the layer of the logits is quantised too, and ranges clip."""
    import nncf
    import openvino

    plain = openvino.Core().read_model(folders["fp32"] / "model.xml")
    images = nncf.Dataset([image[None] for image in colour.IMAGES])
    path = tmp_path / "model.xml"
    openvino.save_model(nncf.quantize(plain, images, subset_size=60), path, compress_to_fp16=False)
    expected = measure(path, colour.IMAGES)
    assert expected is not None
    assert "clip on purpose" in expected.method
    request = openvino.Core().compile_model(path, "CPU").create_infer_request()
    error = request.infer({0: colour.IMAGES})[0] - colour.logits_of(colour.IMAGES)
    assert 0.5 < np.sqrt(np.mean(np.square(error))) / expected.rms < 2


def test_a_file_that_rounds_nothing_has_no_expected_error(
    folders: dict[Precision, Path],
) -> None:
    for precision in ("fp32", "fp16"):
        assert measure(folders[precision] / "model.xml", colour.IMAGES) is None
