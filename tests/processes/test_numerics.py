"""No variable in the user's environment reduces float32 arithmetic in a worker or an export."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINT, faulty

from toolkit.artifacts.conversion import export_apart
from toolkit.artifacts.formats import find_format
from toolkit.data import load_dataset
from toolkit.processes.numerics import (
    PINNED_ENVIRONMENT,
    REMOVED_FROM_ENVIRONMENT,
    kernel_environment,
    pin,
    pinned,
)
from toolkit.schema import CheckpointId, InputSpec, Settings
from toolkit.sessions.candidates import Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.surroundings import environment_of

IMAGES = load_dataset("test").images[:100]
TELLS_ITS_ENVIRONMENT = """
import json, os
from toolkit.sessions.runtimes.no_op import NoOpSession
from dataclasses import replace
SEEN = dict(os.environ)  # as any library would, at its import
class Session(NoOpSession):
    @property
    def attestation(self):
        return replace(super().attestation, version=json.dumps(SEEN))
def load(source, settings):
    return Session(source.artifact.classes, settings)
"""


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with every known variable that reduces precision."""
    for name in (*PINNED_ENVIRONMENT, *REMOVED_FROM_ENVIRONMENT):
        monkeypatch.setenv(name, "BF16" if name.endswith("FPMATH_MODE") else "1")


def test_names_are_pinned_or_removed_not_both() -> None:
    assert not set(PINNED_ENVIRONMENT) & set(REMOVED_FROM_ENVIRONMENT)


def test_copy_is_pinned_and_the_rest_is_kept() -> None:
    given = {"ONEDNN_DEFAULT_FPMATH_MODE": "ANY", "MKL_BLAS_COMPUTE_MODE": "ANY", "HOME": "/home"}
    assert pinned(given) == {**PINNED_ENVIRONMENT, "HOME": "/home"}
    assert given["ONEDNN_DEFAULT_FPMATH_MODE"] == "ANY"


@pytest.mark.usefixtures("reduced")
def test_own_environment_is_pinned() -> None:
    pin()
    assert {name: os.environ.get(name) for name in PINNED_ENVIRONMENT} == PINNED_ENVIRONMENT
    assert not set(REMOVED_FROM_ENVIRONMENT) & set(os.environ)


def test_variables_that_choose_kernels_are_named() -> None:
    given = {"HOME": "/home", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert kernel_environment({"HOME": "/home"}) == {}
    assert kernel_environment(given) == {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }


def test_kernel_environment_is_this_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert kernel_environment()["MKL_CBWR"] == "COMPATIBLE"


@pytest.mark.usefixtures("reduced")
def test_worker_environment_is_pinned(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tells_its_environment.py").write_text(TELLS_ITS_ENVIRONMENT)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    candidate = faulty(subject, "")
    told = replace(candidate, runtime=replace(candidate.runtime, module="tells_its_environment"))
    with RemoteSession(told, batch_size=1, timeout_s=60) as session:
        seen = json.loads(session.load().attestation.version)
    assert {name: seen.get(name) for name in PINNED_ENVIRONMENT} == PINNED_ENVIRONMENT
    assert not set(REMOVED_FROM_ENVIRONMENT) & set(seen)


def test_idle_threads_sleep_only_where_workers_share_the_machine(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    candidate = checkpoint_candidate(subject, "eager", Settings(threads=1))
    assert "OMP_WAIT_POLICY" not in environment_of(candidate, tmp_path)
    assert environment_of(candidate, tmp_path, shares=True)["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment_of(candidate, tmp_path, shares=True)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_logits_do_not_depend_on_the_users_environment(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with bfloat16 products, eager's logits would otherwise change by 0.03."""
    candidate = checkpoint_candidate(subject, "eager", Settings(threads=1))

    def logits() -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
        with RemoteSession(candidate, batch_size=100, timeout_s=60) as session:
            return np.concatenate(list(session.predict([IMAGES], batch_size=100)))

    wanted = logits()
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "BF16")
    np.testing.assert_array_equal(logits(), wanted)


@pytest.mark.usefixtures("reduced")
def test_environment_of_an_export_is_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, str] = {}

    class NotStartedError(Exception):
        pass

    def start(command: list[str], *, env: dict[str, str], **_: object) -> None:
        seen.update(env)
        raise NotStartedError

    monkeypatch.setattr("toolkit.processes.child.subprocess.Popen", start)
    conversion = export_apart(
        find_format("ncnn"),
        precision="fp32",
        checkpoint=CHECKPOINT,
        checkpoint_id=CheckpointId(weights_sha256="", spec_sha256=""),
        model=None,
        input=InputSpec(shape=(1, 28, 28), mean=(0.0,), std=(1.0,)),
        path=tmp_path / "model.ncnn",
        calibration=np.empty((0, 1, 28, 28), np.float32),
        isas=None,
        timeout_s=1.0,
    )
    with pytest.raises(NotStartedError), conversion:
        pass
    assert seen == pinned(seen)
