"""ONNX and `.ort`: a file matches its precision, for any model, and its runtime attests it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import colour
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from toolkit.artifacts.formats import Written
from toolkit.artifacts.formats.onnx import export
from toolkit.artifacts.formats.ort import export as export_ort
from toolkit.artifacts.parsers.onnx import Contents, read_onnx, read_ort
from toolkit.errors import Unsupported
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes import Loader, tensorrt
from toolkit.sessions.runtimes import onnxruntime as cuda_runtime
from toolkit.sessions.runtimes._onnxruntime import OnnxSession
from toolkit.sessions.runtimes.onnxruntime import load

MOVED: dict[Precision, float] = {"fp32": 1e-6, "fp16": 1e-3, "int8": 0.03, "int8-dynamic": 0.03}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths: dict[Precision, Path] = {precision: folder / f"{precision}.onnx" for precision in MOVED}
    for precision, path in paths.items():
        written = export(colour.request_for(path, precision))
        assert written == Written(opset=18)  # exact everywhere
    return paths


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {
        item.name: numpy_helper.to_array(item)
        for item in onnx.load(path, load_external_data=False).graph.initializer
    }


@pytest.mark.parametrize("precision", MOVED)
def test_file_is_valid_standard_onnx_with_float32_input_and_output(
    files: dict[Precision, Path], precision: Precision
) -> None:
    model = onnx.load(files[precision], load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    ends = (*model.graph.input, *model.graph.output)
    assert [end.name for end in ends] == ["input", "logits"]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert all(end.type.tensor_type.shape.dim[0].dim_param for end in ends)


@pytest.mark.parametrize("precision", MOVED)
def test_session_computes_the_model_and_attests_its_precision(
    files: dict[Precision, Path], precision: Precision
) -> None:
    source = colour.source_of(files[precision], "onnx", precision)
    session = load(source, Settings(threads=1))
    logits = session.run(colour.IMAGES)
    np.testing.assert_allclose(
        logits, colour.logits_of(colour.IMAGES), atol=MOVED[precision], rtol=0
    )
    assert session.attestation.precision == precision


def test_fp16_holds_kernels_and_matrices_in_float16(files: dict[Precision, Path]) -> None:
    weights = weights_of(files["fp16"])
    large = [value for value in weights.values() if value.ndim >= 2]
    assert len(large) == 5
    assert {value.dtype for value in large} == {np.dtype(np.float16)}


def test_fp16_refuses_weights_that_float16_cannot_hold(tmp_path: Path) -> None:
    model = colour.ColourNet()
    with torch.no_grad():
        model.head.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match="has a value of 100000, but the largest float16 is 65504"):
        export(colour.request_for(tmp_path / "m.onnx", "fp16", model=model))


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_only_the_logits_layer_stays_in_float32(
    files: dict[Precision, Path], precision: Precision
) -> None:
    graph = onnx.load(files[precision]).graph
    weights = weights_of(files[precision])
    makers = {name: node for node in graph.node for name in node.output}
    last = makers["logits"]
    while last.op_type not in ("Gemm", "MatMul"):
        last = makers[last.input[0]]
    assert weights[last.input[1]].dtype == np.float32
    matrices = [w for w in weights.values() if w.ndim >= 2 and w.dtype != np.int8]
    dynamic = precision == "int8-dynamic"
    assert len(matrices) == (4 if dynamic else 1)  # three convolutions stay for int8-dynamic


def test_int8_weights_have_one_scale_per_channel_and_seven_bits(
    files: dict[Precision, Path],
) -> None:
    weights = weights_of(files["int8"])
    kernels = {n: w for n, w in weights.items() if w.dtype == np.int8 and w.ndim >= 2}
    assert len(kernels) == 4
    assert all(np.abs(kernel.astype(int)).max() <= 64 for kernel in kernels.values())
    for name, kernel in kernels.items():
        scales = weights[name.removesuffix("_quantized") + "_scale"]
        assert scales.size == len(kernel)  # output channels come first


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_int8_without_avx2_has_eight_bits_and_records_exact_isas(
    tmp_path: Path, precision: Precision
) -> None:
    path = tmp_path / "m.onnx"
    written = export(colour.request_for(path, precision, isas=("vnni", "arm")))
    assert written.isas == ("vnni", "arm")
    found = [w for w in weights_of(path).values() if w.dtype == np.int8 and w.ndim >= 2]
    assert max(np.abs(weight.astype(int)).max() for weight in found) > 64


def test_int8_is_computed_in_int8(files: dict[Precision, Path], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    onnxruntime.InferenceSession(str(files["int8"]), options, providers=["CPUExecutionProvider"])
    executed = [node.op_type for node in onnx.load(tmp_path / "executed.onnx").graph.node]
    assert executed.count("QLinearConv") == 3
    assert executed.count("QGemm") == 1
    assert not {"Conv", "FusedConv"} & set(executed)


def test_one_layer_model_supports_int8_dynamic_but_not_int8(tmp_path: Path) -> None:
    model = colour.OneLayer()
    with pytest.raises(ValueError, match="nothing in this model could be written in int8"):
        export(colour.request_for(tmp_path / "static.onnx", "int8", model=model))
    export(colour.request_for(tmp_path / "dynamic.onnx", "int8-dynamic", model=model))
    assert not (tmp_path / "static.onnx").exists()
    assert read_onnx(tmp_path / "dynamic.onnx").precision == "int8-dynamic"


@pytest.mark.parametrize("precision", MOVED)
def test_parsed_contents_match_onnx(files: dict[Precision, Path], precision: Precision) -> None:
    graph = onnx.load(files[precision]).graph
    contents = read_onnx(files[precision])
    assert contents.operators == {node.op_type for node in graph.node}
    assert contents.weight_types == {item.data_type for item in graph.initializer}
    assert contents.cast_types <= {TensorProto.FLOAT}


@pytest.mark.parametrize("data", [b"\x3a\xff", b"\x3f", b"\x80" * 20, b"\x3a"])
def test_contents_of_a_damaged_file_are_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="byte"):
        read_onnx(path)


def test_ort_is_optimised_for_any_cpu_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "m.ort"
    assert export_ort(colour.request_for(path, "fp32")) == Written(opset=18)
    contents = read_ort(path)
    assert "FusedConv" in contents.operators
    assert not {"ReorderInput", "ReorderOutput"} & contents.operators  # x86's own layout
    source = colour.source_of(path, "ort")
    session = load(source, Settings(threads=1))
    logits = session.run(colour.IMAGES)
    np.testing.assert_allclose(logits, colour.logits_of(colour.IMAGES), atol=1e-6, rtol=0)
    assert session.attestation.precision == "fp32"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Exception, match="ORT model verification failed"):
        load(source, Settings(threads=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("module", [cuda_runtime, tensorrt], ids=["onnxruntime", "tensorrt"])
def test_missing_provider_is_reported(files: dict[Precision, Path], module: Loader) -> None:
    with pytest.raises(Unsupported, match=r"onnxruntime \S+ has no (CUDA|Tensorrt)Execution"):
        module.load(colour.source_of(files["fp32"], "onnx"), Settings(threads=1, device="cuda"))


@pytest.mark.parametrize(("tf32", "arithmetic"), [("0", "float32"), ("1", "TF32")])
def test_operators_left_to_another_provider_and_tf32_are_attested(
    tf32: str, arithmetic: str
) -> None:
    """Uses a stand-in for a session on a GPU."""
    parts = [("CUDAExecutionProvider", 7), ("CPUExecutionProvider", 2)]
    stand_in = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_options=lambda: {"CUDAExecutionProvider": {"use_tf32": tf32}},
        get_provider_graph_assignment_info=lambda: [
            SimpleNamespace(
                ep_name=name,
                get_nodes=lambda count=count: [SimpleNamespace(op_type="Conv")] * count,
            )
            for name, count in parts
        ],
    )
    session = OnnxSession(
        stand_in,
        runtime="x",
        version="1",
        contents=Contents(operators=frozenset({"Conv"}), weight_types=frozenset({1})),
        threads=1,
        counted=True,
    )
    found = session.attestation
    assert (found.provider, found.device) == ("CUDAExecutionProvider (7 of 9 operators)", "cuda")
    assert found.arithmetic == arithmetic
    assert found.evidence["threads"] == "as asked"  # a GPU's driver starts its own threads


@pytest.mark.parametrize(
    ("operator", "arithmetic"), [("Conv", "float32 on int8 values"), ("QLinearConv", "int8")]
)
def test_int8_arithmetic_on_cuda_follows_the_products(operator: str, arithmetic: str) -> None:
    """CUDA's provider dequantises and multiplies in float32. Uses a stand-in for such a session."""
    node = SimpleNamespace(op_type=operator)
    stand_in = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider"],
        get_provider_options=lambda: {"CUDAExecutionProvider": {"use_tf32": "0"}},
        get_provider_graph_assignment_info=lambda: [
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: [node])
        ],
    )
    contents = Contents(
        operators=frozenset({"Conv", "QuantizeLinear", "DequantizeLinear"}),
        weight_types=frozenset({1, 3}),
        matrix_types=frozenset({3}),
    )
    session = OnnxSession(
        stand_in, runtime="x", version="1", contents=contents, threads=1, counted=True
    )
    found = session.attestation
    assert (found.precision, found.arithmetic) == ("int8", arithmetic)


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_session_error_matches_the_expected_error(precision: Precision, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    written = export(colour.request_for(path, precision, measured=colour.IMAGES))
    logits = load(colour.source_of(path, "onnx", precision), Settings(threads=1)).run(colour.IMAGES)
    assert 0.5 < colour.error_ratio(written, logits) < 1.5
