"""CUDA's libraries are found among Python packages, and a missing one is named."""

from __future__ import annotations

import ctypes.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.sessions.runtimes import _cuda_libraries as cuda_libraries
from toolkit.sessions.runtimes import _onnxruntime as onnx_session
from toolkit.sessions.runtimes._cuda_libraries import (
    count_cuda_devices,
    library_folders,
    loading_error,
    preload_cuda_libraries,
)

MISSING = "libtoolkit-has-no-such-library.so.13"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two places on the interpreter's path, each with a part of the namespace `nvidia`."""
    for place, package in (("one", "cu13"), ("two", "cudnn")):
        (tmp_path / place / "nvidia" / package / "lib").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / place))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    return tmp_path


def test_folders_are_found_in_all_places_of_the_path(packages: Path) -> None:
    found = library_folders()
    assert packages / "one" / "nvidia" / "cu13" / "lib" in found
    assert packages / "two" / "nvidia" / "cudnn" / "lib" in found


@pytest.mark.skipif(sys.platform != "linux", reason="shared libraries as Linux names them")
def test_libraries_are_loaded_and_damaged_ones_left_out(tmp_path: Path) -> None:
    """Any library will do, because libraries are selected by name."""
    real = next(
        path
        for folder in ("/lib", "/lib64", "/usr/lib")
        for path in Path(folder).rglob(str(ctypes.util.find_library("m")))
    )
    shutil.copy(real, tmp_path / "libcudart.so.13")
    (tmp_path / "libcublas.so.13").write_bytes(b"damaged")
    (tmp_path / "libother.so.13").write_bytes(b"not one of them")
    assert preload_cuda_libraries([tmp_path]) == ["libcudart.so.13"]
    assert preload_cuda_libraries([tmp_path / "none"]) == []


def test_missing_library_is_named(tmp_path: Path) -> None:
    assert MISSING in str(loading_error(tmp_path / MISSING))


def test_fallback_session_names_the_missing_library(tmp_path: Path) -> None:
    stand_in = SimpleNamespace(__file__=str(tmp_path / "__init__.py"), __version__="1.31")
    text = onnx_session._not_the_one(stand_in, onnx_session.CUDA, onnx_session.CPU)
    assert "because a library is missing: " in text
    assert "libonnxruntime_providers_cuda.so" in text
    assert "install a torch built for CUDA" in text


@pytest.mark.parametrize("both", [True, False])
def test_build_without_the_provider_says_what_to_do(
    both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"onnxruntime": "1.31", "onnxruntime-gpu": "1.31" if both else None}
    monkeypatch.setattr(onnx_session, "installed_version", installed.get)
    stand_in = SimpleNamespace(
        __version__="1.31", get_available_providers=lambda: [onnx_session.CPU]
    )
    text = onnx_session._no_provider(stand_in, onnx_session.CUDA)
    assert text.startswith("onnxruntime 1.31 has no CUDAExecutionProvider, only CPUExec")
    assert ("both installed" in text) is both
    assert "pip install onnxruntime-gpu" in text
    assert "\n" not in text


def test_missing_driver_means_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_libraries, "_DRIVER", MISSING)
    assert count_cuda_devices() == 0
