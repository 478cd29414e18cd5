"""ExecuTorch programs: their precision, their delegate, their batches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from colour import IMAGES, SHAPE, OneLayer, error_ratio, logits_of, request_for, source_of
from torch import Tensor, nn

from toolkit.artifacts.formats import FORMATS, load_exporter
from toolkit.errors import Crashed, Unsupported
from toolkit.schema import Precision, Settings
from toolkit.sessions.runtimes import Session

pytest.importorskip("torchao")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("executorch.runtime")

from toolkit.artifacts.parsers.executorch import read_program
from toolkit.sessions.runtimes.executorch import load

MANY = np.random.default_rng(1).standard_normal((300, *SHAPE), np.float32)
CONSTANT = True
FP32, INT8, INT8_PER_CHANNEL = 1, 3, 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("executorch")
    paths: dict[Precision, Path] = {each: folder / f"{each}.pte" for each in ("fp32", "int8")}
    for precision, path in paths.items():
        load_exporter(FORMATS["executorch"]).export(request_for(path, precision))
    return paths


def open_session(path: Path, *, settings: Settings) -> Session:
    return load(source_of(path, "executorch"), settings)


@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-5), ("int8", 0.05)])
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_match_the_model(
    files: dict[Precision, Path], precision: Precision, close: float, threads: int
) -> None:
    session = open_session(files[precision], settings=Settings(threads=threads))
    attested = session.attestation
    assert (attested.precision, attested.threads) == (precision, threads)
    wanted = logits_of(MANY)
    for batch_size in (1, 7, 256, 300):  # the last is more than the program takes at a time
        found = session.run(MANY[:batch_size])
        np.testing.assert_allclose(found, wanted[:batch_size], atol=close, rtol=0)


def test_program_traced_with_two_images_takes_up_to_256(
    files: dict[Precision, Path],
) -> None:
    from executorch.runtime import Runtime

    for path in files.values():
        method = Runtime.get().load_program(path).load_method("forward")
        assert tuple(method.metadata.input_tensor_meta(0).sizes()) == (256, *SHAPE)


def test_caller_owns_the_outputs(files: dict[Precision, Path]) -> None:
    session = open_session(files["fp32"], settings=Settings(threads=1))
    first = session.run(IMAGES[:10])
    kept = first.copy()
    session.run(IMAGES[10:20])
    np.testing.assert_array_equal(first, kept)


def test_int8_has_int8_weights_and_float_weights_only_in_the_output_layer(
    files: dict[Precision, Path],
) -> None:
    program = read_program(files["int8"].read_bytes())
    assert {(INT8_PER_CHANNEL, CONSTANT), (INT8, not CONSTANT)} <= program.datatypes
    assert (FP32, CONSTANT) in program.datatypes
    assert program.precision == "int8"
    assert read_program(files["fp32"].read_bytes()).datatypes == {(FP32, True), (FP32, False)}
    assert files["int8"].stat().st_size < files["fp32"].stat().st_size


def test_only_layer_of_a_model_is_quantised(tmp_path: Path) -> None:
    path = tmp_path / "linear.pte"
    load_exporter(FORMATS["executorch"]).export(request_for(path, "int8", model=OneLayer()))
    assert read_program(path.read_bytes()).precision == "int8"


def test_program_without_xnnpack_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.exir import to_edge

        program = torch.export.export(request_for(tmp_path).model, (torch.from_numpy(IMAGES[:1]),))
        path = tmp_path / "portable.pte"
        path.write_bytes(to_edge(program).to_executorch().buffer)
    with pytest.raises(Unsupported, match="no operator of this program is delegated to XNNPACK"):
        open_session(path, settings=Settings(threads=1))


class Gelu(nn.Module):
    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.model = OneLayer()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.model(x), approximate=self.approximate)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_variant_matches_the_model(tmp_path: Path, approximate: str) -> None:
    """XNNPACK's delegate computes the exact GELU for both variants; they differ by 5e-4."""
    path = tmp_path / "gelu.pte"
    model = Gelu(approximate)
    load_exporter(FORMATS["executorch"]).export(request_for(path, model=model))
    session = open_session(path, settings=Settings(threads=1))
    wanted = logits_of(MANY, model)
    other = logits_of(MANY, Gelu({"none": "tanh", "tanh": "none"}[approximate]))
    assert np.abs(wanted - other).max() > 1e-4
    np.testing.assert_allclose(session.run(MANY), wanted, atol=5e-6, rtol=0)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.99])
def test_truncated_file_is_an_error(
    files: dict[Precision, Path], tmp_path: Path, kept: float
) -> None:
    data = files["fp32"].read_bytes()
    path = tmp_path / "half.pte"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(Crashed, match=r"Failed to load program, .* \(Invalid"):
        open_session(path, settings=Settings(threads=1))


def test_session_error_matches_the_expected_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    written = load_exporter(FORMATS["executorch"]).export(
        request_for(path, "int8", measured=IMAGES)
    )
    logits = open_session(path, settings=Settings(threads=1)).run(IMAGES)
    assert 0.5 < error_ratio(written, logits) < 1.5
