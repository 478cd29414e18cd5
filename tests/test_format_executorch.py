"""What is particular to ExecuTorch's programs: their precision, their delegate, their batches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts import NamedClassifier
from toolkit.errors import Unsupported
from toolkit.formats import FORMATS, Request, load_exporter
from toolkit.runtimes import Session, Source
from toolkit.schema import Artifact, Precision, Settings

pytest.importorskip("torchao")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("executorch.runtime")

from toolkit.pte import read_program
from toolkit.runtimes.executorch import load

SHAPE, CLASSES = (3, 32, 32), 5
CONSTANT = True
FP32, INT8, INT8_PER_CHANNEL = 1, 3, 6


class Residual(nn.Module):
    """A classifier that shares neither shapes nor layer names with the reference CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block(x))
        return self.head(nn.functional.avg_pool2d(x, 8).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return NamedClassifier(Residual()).eval()


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((300, *SHAPE), np.float32)


def write(model: nn.Module, precision: Precision, path: Path, images: NDArray[np.float32]) -> Path:
    example = torch.from_numpy(images[:2])
    exporter = load_exporter(FORMATS["executorch"])
    exporter.export(
        Request(
            model=model,
            example=example,
            path=path,
            precision=precision,
            calibration=images[:100],
            isas=None,
        )
    )
    return path


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, model: nn.Module, images: NDArray[np.float32]
) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("executorch")
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    return {each: write(model, each, folder / f"{each}.pte", images) for each in precisions}


def open_session(path: Path, *, settings: Settings) -> Session:
    artifact = Artifact(
        format="executorch",
        precision="fp32",
        path=path.name,
        size_bytes=0,
        sha256="",
        checkpoint_sha256="",
        spec_sha256="",
        input_shape=SHAPE,
        classes=CLASSES,
    )
    return load(Source(path=path, artifact=artifact), settings)


def torch_logits(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-5), ("int8", 0.05)])
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_those_of_the_model(
    files: dict[Precision, Path],
    model: nn.Module,
    images: NDArray[np.float32],
    precision: Precision,
    close: float,
    threads: int,
) -> None:
    session = open_session(files[precision], settings=Settings(threads=threads))
    attested = session.attestation
    assert (attested.precision, attested.threads) == (precision, threads)
    wanted = torch_logits(model, images)
    for batch_size in (1, 7, 256, 300):  # the last is more than the program takes at a time
        found = session.run(images[:batch_size])
        np.testing.assert_allclose(found, wanted[:batch_size], atol=close, rtol=0)


def test_program_takes_256_images_though_it_was_traced_with_two(
    files: dict[Precision, Path],
) -> None:
    from executorch.runtime import Runtime

    for path in files.values():
        method = Runtime.get().load_program(path).load_method("forward")
        assert tuple(method.metadata.input_tensor_meta(0).sizes()) == (256, *SHAPE)


def test_outputs_are_the_callers_own(
    files: dict[Precision, Path], images: NDArray[np.float32]
) -> None:
    session = open_session(files["fp32"], settings=Settings(threads=1))
    first = session.run(images[:10])
    kept = first.copy()
    session.run(images[10:20])
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


def test_only_layer_of_a_model_is_quantised(tmp_path: Path, images: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), CLASSES))
    path = write(NamedClassifier(linear).eval(), "int8", tmp_path / "linear.pte", images)
    assert read_program(path.read_bytes()).precision == "int8"


def test_program_without_xnnpack_is_refused(
    tmp_path: Path, model: nn.Module, images: NDArray[np.float32]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.exir import to_edge

        program = torch.export.export(model, (torch.from_numpy(images[:1]),))
        path = tmp_path / "portable.pte"
        path.write_bytes(to_edge(program).to_executorch().buffer)
    with pytest.raises(Unsupported, match="no operator of this program is delegated to XNNPACK"):
        open_session(path, settings=Settings(threads=1))


def test_several_streams_are_refused(files: dict[Precision, Path]) -> None:
    with pytest.raises(Unsupported, match="one call at a time"):
        open_session(files["fp32"], settings=Settings(threads=1, streams=2))


def test_gpu_is_refused(files: dict[Precision, Path]) -> None:
    with pytest.raises(Unsupported, match="--device cpu"):
        open_session(files["fp32"], settings=Settings(threads=1, device="cuda"))


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.99])
def test_truncated_file_is_an_error(
    files: dict[Precision, Path], tmp_path: Path, kept: float
) -> None:
    data = files["fp32"].read_bytes()
    path = tmp_path / "half.pte"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(RuntimeError, match="Failed to load program"):
        open_session(path, settings=Settings(threads=1))
