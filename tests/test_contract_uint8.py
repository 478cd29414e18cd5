"""The contract of artifacts with the preprocessing in their graph: from raw bytes, every runtime
that loads one gives the logits of the artifact that gets normalised floats.

Runtimes that are not installed are skipped, as in test_contract.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, PATIENCE_S
from numpy.typing import NDArray

from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.artifacts.manifest import StoredArtifact, find_artifacts
from toolkit.data import load_dataset
from toolkit.schema import TRAITS, Device, Precision, Settings
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import RUNTIMES

DATA = load_dataset("test")
IMAGES, LABELS = DATA.images[:250], DATA.labels[:250]
CLOSE = 1e-4  # logit units; see test_contract.py
# OpenVINO stores all constants in float16, mean and std as well. Its fp16 files are up to 4e-3 away
# from float32 in any case.
CLOSE_IN_HALF = 1e-3
AGREEMENT = 0.98  # of the predictions in int8: values next to a step may fall on either side


class Row(NamedTuple):
    """An artifact with uint8 input in a runtime, on one of its devices."""

    runtime: str
    format: str
    precision: Precision
    device: Device


ROWS = [
    Row(runtime.name, name, precision, device)
    for runtime in RUNTIMES.values()
    if runtime.uint8
    for name in runtime.formats
    for precision in FORMATS[name].uint8
    if runtime.loads(name, precision)
    for device in runtime.devices
    if device == "cpu" or name not in runtime.cpu_formats
]
FAST = {("torchscript", "torchscript", "fp32"), ("onnxruntime", "onnx", "fp32")}
Exported = Callable[[str, Precision, bool], Path]


def params() -> list[Any]:
    """Return the rows as parameters; few are tested each time."""
    return [
        pytest.param(
            row,
            id="-".join(row),
            marks=[] if row[:3] in FAST and row.device == "cpu" else [pytest.mark.slow],
        )
        for row in ROWS
    ]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a format in a precision on first use, with or without the preprocessing."""

    @functools.cache
    def make(name: str, precision: Precision, embed: bool) -> Path:
        folder = tmp_path_factory.mktemp(f"uint8-{name}-{precision}-{embed}")
        done = export(
            CHECKPOINT,
            out=folder,
            formats=[name],
            precisions=[precision],
            embed_preprocessing=embed,
        )
        assert not done.failures, done.failures[0].failure.stderr_tail
        return folder

    return make


def candidate_of(row: Row, folder: Path) -> Candidate:
    """Return the candidate of a row, or skip the test and say what is missing."""
    runtime, settings = RUNTIMES[row.runtime], Settings(threads=2, device=row.device)
    if not runtime.runs_on(row.device) or (row.device == "cuda" and not torch.cuda.is_available()):
        pytest.skip(f"{runtime.name} does not run on {row.device} here")
    subject = find_subject([folder], checkpoint=CHECKPOINT, model=None)
    (found,) = find_candidates(subject, [runtime.name], settings)
    return found


def skip_if_missing(row: Row) -> None:
    if RUNTIMES[row.runtime].version() is None:
        pytest.skip(f"{row.runtime} is not installed: {RUNTIMES[row.runtime].install}")
    if FORMATS[row.format].missing():
        pytest.skip(f"{row.format} cannot be written: {FORMATS[row.format].install}")


def logits_of(session: RemoteSession, batch_size: int = 100) -> NDArray[np.floating]:
    return np.concatenate(list(session.predict([IMAGES], batch_size=batch_size)))


def same(
    found: NDArray[np.floating],
    wanted: NDArray[np.floating],
    error: float | None,
    *,
    close: float = CLOSE,
) -> None:
    """Compare logits: to float32 rounding, or to the root mean square of int8's own error."""
    if error is None:
        np.testing.assert_allclose(found, wanted, atol=close, rtol=0)
        return
    assert np.mean(found.argmax(1) == wanted.argmax(1)) >= AGREEMENT
    assert np.sqrt(np.mean(np.square(found - wanted))) < 2 * error


def expected_rms(candidate: Candidate) -> float | None:
    """Return the error of a quantised artifact's rounding."""
    artifact = candidate.source.artifact
    if not TRAITS[artifact.precision].int8_products:
        return None
    assert artifact.expected_error is not None
    return artifact.expected_error.rms


@pytest.mark.parametrize("row", params())
def test_raw_bytes_give_the_logits_of_normalised_floats(row: Row, exported: Exported) -> None:
    """Also at other batch sizes, in timed calls, and as attested."""
    skip_if_missing(row)
    usual = candidate_of(row, exported(row.format, row.precision, False))
    with RemoteSession(usual, batch_size=100, timeout_s=PATIENCE_S) as session:
        wanted = logits_of(session)
        attested = session.load().attestation
    candidate = candidate_of(row, exported(row.format, row.precision, True))
    assert candidate.source.artifact.embeds_preprocessing
    error = expected_rms(candidate)
    with RemoteSession(candidate, batch_size=100, timeout_s=PATIENCE_S) as session:
        found = logits_of(session)
        halved = row.precision == "fp16" and row.format == "openvino"
        same(found, wanted, error, close=CLOSE_IN_HALF if halved else CLOSE)
        assert np.mean(found.argmax(1) == LABELS) > 0.97
        for batch_size in (1, 7):
            same(logits_of(session, batch_size), found, error)
        session.prepare(IMAGES, batch_size=100)
        assert min(session.measure(calls=3).samples_s[0]) > 0
        own = session.load().attestation
    assert (own.precision, own.threads, own.arithmetic) == (
        attested.precision,
        attested.threads,
        attested.arithmetic,
    )


def stored(folder: Path) -> StoredArtifact:
    (found,) = find_artifacts([folder])
    return found


@pytest.mark.parametrize(
    ("format", "precision"),
    [
        pytest.param(name, precision, marks=[] if name == "torchscript" else [pytest.mark.slow])
        for name, row in FORMATS.items()
        for precision in row.uint8
    ],
)
def test_record_says_that_the_input_is_uint8(
    format: str, precision: Precision, exported: Exported
) -> None:
    if FORMATS[format].missing():
        pytest.skip(f"{format} cannot be written: {FORMATS[format].install}")
    record = stored(exported(format, precision, True)).record
    assert record.key == (format, precision, True)
    middle = "" if precision == "fp32" else f".{precision}"
    assert record.path == f"mnist-cnn{middle}.uint8-input{FORMATS[format].suffix}"
