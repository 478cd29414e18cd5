"""Tests that need a GPU: a TorchScript file that allows TF32 uses it, and its session attests
this."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, PATIENCE_S

from toolkit.checkpoints.model import example_input
from toolkit.checkpoints.storage import load_model
from toolkit.data import load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.files import sha256_of
from toolkit.parity.verify import verify
from toolkit.schema import Settings
from toolkit.sessions.candidates import find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes._torch_arithmetic import pin_arithmetic
from toolkit.settings import SessionOptions

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
IMAGES = load_dataset("test").images[:500]
RUNTIMES = ["torchscript", "torchscript-frozen"]
ON_CUDA = Settings(threads=1, device="cuda")


@pytest.fixture(autouse=True)
def flags_come_back() -> Iterator[None]:
    yield
    pin_arithmetic()


@pytest.fixture
def with_tf32(exports: Path, tmp_path: Path) -> Path:
    """Exports whose TorchScript file allows TF32, as a plain `torch.jit.trace` writes it."""
    folder = Path(shutil.copytree(exports, tmp_path / "exports"))
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    model, record = load_model(CHECKPOINT)
    path = folder / "mnist-cnn.torchscript"
    with torch.no_grad():
        traced = torch.jit.trace(model, example_input(record.input.shape, batch_size=2))
    torch.jit.save(traced, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checkpoint"] = str(CHECKPOINT)
    for each in manifest["artifacts"]:
        if each["path"] == path.name:
            each.update(sha256=sha256_of(path), size_bytes=path.stat().st_size)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def arithmetic_and_distance(folder: Path, runtime: str) -> tuple[str, float]:
    """Return the attested arithmetic, and the distance of the worker's logits from float64."""
    model, record = load_model(CHECKPOINT)
    inputs = torch.from_numpy(normalise(np.asarray(IMAGES), record.input))
    with torch.inference_mode():
        wanted = model.double()(inputs.double()).numpy()
    (candidate,) = find_candidates(
        find_subject([folder], checkpoint=CHECKPOINT, model=None), [runtime], ON_CUDA
    )
    with RemoteSession(candidate, batch_size=100, timeout_s=PATIENCE_S) as session:
        word = session.load().attestation.arithmetic
        found = np.concatenate(list(session.predict([IMAGES], batch_size=100)))
    return word, float(np.abs(found - wanted).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_export_computes_in_float32(exports: Path, runtime: str) -> None:
    word, distance = arithmetic_and_distance(exports, runtime)
    assert word == "float32"
    assert distance < 2e-5


def test_file_that_allows_tf32_computes_in_tf32_and_attests_it(with_tf32: Path) -> None:
    word, distance = arithmetic_and_distance(with_tf32, "torchscript")
    assert word == "TF32"
    assert distance > 2e-4


def test_frozen_file_that_allows_tf32_attests_its_actual_arithmetic(with_tf32: Path) -> None:
    """Fused convolutions follow torch's flags, not the file."""
    word, distance = arithmetic_and_distance(with_tf32, "torchscript-frozen")
    assert (word, distance > 2e-4) in [("float32", False), ("TF32", True)]


def test_file_that_allows_tf32_is_judged_with_the_tf32_allowance(
    with_tf32: Path, small_data: Path
) -> None:
    session = SessionOptions(device="cuda")
    results = verify([with_tf32], runtimes=["torchscript"], data=small_data, session=session)
    (row,) = results.parity
    assert row.session is not None
    assert row.session.arithmetic == "TF32"
    assert row.max_diff_in_floors is not None
    assert row.max_diff_in_floors > 20
    assert row.status == "passed"
    assert row.allowance is not None
    assert "compute in TF32" in row.allowance


@pytest.mark.parametrize("runtime", ["eager", "cudagraph", "onnxruntime"])
def test_batches_of_many_sizes_do_not_share_buffers(exports: Path, runtime: str) -> None:
    """Each shape has its own buffers, and only a few are kept."""
    candidate = find_candidates(
        find_subject([exports], checkpoint=CHECKPOINT, model=None), [runtime], ON_CUDA
    )[0]
    with RemoteSession(candidate, batch_size=10, timeout_s=PATIENCE_S) as session:
        wanted = next(iter(session.predict([IMAGES[:60]], batch_size=60)))
        for size in (1, 7, 10, 13, 20, 60, 7):
            found = next(iter(session.predict([IMAGES[:60]], batch_size=size)))
            np.testing.assert_allclose(found, wanted, atol=1e-4)
