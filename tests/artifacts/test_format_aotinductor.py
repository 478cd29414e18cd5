"""AOTInductor: code for any batch size and number of threads; refused if it cannot run."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch._inductor.cpp_builder
from colour import PIXELS, candidate_for, logits_of_pixels, request_for
from conftest import PATIENCE_S
from torch._inductor.exc import InvalidCxxCompiler

from toolkit.artifacts.formats.aotinductor import export
from toolkit.errors import ArtifactError, FailedRun, Unsupported
from toolkit.schema import Settings
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import aotinductor


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "colour.aoti.pt2"
    export(request_for(path))
    return path


@pytest.mark.slow
def test_package_runs_any_batch_size_with_one_or_two_threads(package: Path) -> None:
    images = PIXELS[:100]
    wanted = logits_of_pixels(images)
    for threads in (1, 2):
        candidate = candidate_for(package, runtime="aotinductor", threads=threads)
        with RemoteSession(candidate, batch_size=100, timeout_s=PATIENCE_S) as session:
            for batch_size in (1, 7, 16, 100):
                found = np.concatenate(list(session.predict([images], batch_size=batch_size)))
                np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


def test_compiled_code_does_not_fix_the_number_of_threads(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        (kernels,) = (name for name in archive.namelist() if name.endswith("kernel.cpp"))
        code = archive.read(kernels).decode()
    assert "omp parallel" in code
    assert "num_threads(" not in code


def test_nothing_is_left_in_the_temporary_folder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker unpacks the package and ends without cleaning up."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    candidate = candidate_for(package, runtime="aotinductor")
    with RemoteSession(candidate, batch_size=1, timeout_s=PATIENCE_S) as session:
        session.load()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [0, 0.5])
def test_damaged_package_is_an_artifact_error(
    package: Path, tmp_path: Path, fraction: float
) -> None:
    copy = tmp_path / package.name
    data = package.read_bytes()
    copy.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(ArtifactError, match=r"not an AOTInductor package .*export it again"):
        aotinductor._unpack(copy, tmp_path)


def test_code_for_another_processor_or_device_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, metadata = aotinductor._unpack(package, tmp_path)
    aotinductor._check_target(metadata, Settings(threads=1))
    with pytest.raises(Unsupported, match="compiled for cpu, but cuda was requested"):
        aotinductor._check_target(metadata, Settings(threads=1, device="cuda"))
    monkeypatch.setattr(aotinductor, "instruction_sets", lambda: ())
    with pytest.raises(Unsupported, match=r"this is .* without .*: export it on a processor like"):
        aotinductor._check_target({**metadata, "instruction_sets": "x9"}, Settings(threads=1))


def test_missing_compiler_error_says_how_to_install_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor.cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(FailedRun, match=r"needs a C\+\+ compiler .* apt install g\+\+") as caught:
        export(request_for(tmp_path / "colour.aoti.pt2"))
    assert caught.value.status == "unsupported"
