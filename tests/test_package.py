"""The built packages: a wheel that works by itself, and an sdist that passes its tests."""

from __future__ import annotations

import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import CHECKPOINT, REPOSITORY, Cli
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import toolkit
from toolkit.checkpoints.bundled import REFERENCE, reference_checkpoint

CHECKPOINT_FILES = {"README.md", "checkpoint.json", "weights.safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(WheelBuilder(str(REPOSITORY)).build(directory=str(folder))))


def test_wheel_contains_the_reference_checkpoint(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in CHECKPOINT_FILES:
            inside = archive.read(f"toolkit/checkpoints/mnist-cnn/{name}")
            assert inside == (CHECKPOINT / name).read_bytes()


def test_wheel_contains_only_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.partition("/")[0] for name in archive.namelist()}
    assert roots == {"toolkit", f"toolkit-{toolkit.__version__}.dist-info"}


def test_version_is_defined_in_one_place(wheel: Path) -> None:
    assert f"-{toolkit.__version__}-" in wheel.name
    assert toolkit.__version__ not in (REPOSITORY / "pyproject.toml").read_text()


def test_sdist_contains_the_files_that_tests_read(tmp_path: Path) -> None:
    path = next(SdistBuilder(str(REPOSITORY)).build(directory=str(tmp_path)))
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "constraints.txt", "pyproject.toml"),
        *("scripts/check", "scripts/make-docs", ".ci/run", "docs/commands.md", "tests/conftest.py"),
        *("benchmarks/results/README.md", "tests/plugin/pyproject.toml"),
        *(f"models/mnist-cnn/{name}" for name in CHECKPOINT_FILES),
    }
    assert wanted <= inside


def test_metadata_is_complete_for_a_registry_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = f"toolkit-{toolkit.__version__}.dist-info/METADATA"
        headers = archive.read(name).decode().partition("\n\n")[0].splitlines()
    names = {line.partition(":")[0] for line in headers}
    assert {"Summary", "Keywords", "Classifier", "Requires-Python"} <= names
    assert "Description-Content-Type: text/markdown" in headers


def test_reference_checkpoint_of_the_current_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = reference_checkpoint()
    assert elsewhere.is_absolute()
    assert {path.name for path in elsewhere.iterdir()} >= CHECKPOINT_FILES
    REFERENCE.mkdir(parents=True)
    assert reference_checkpoint() == REFERENCE


def test_export_in_an_empty_folder_writes_there(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("export", "--format", "torchscript")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "models" / "exports" / "mnist-cnn"
    files = {path.name for path in folder.iterdir()}
    assert files == {"manifest.json", "mnist-cnn.torchscript", "mnist-cnn.torchscript.md"}


def test_installed_version_is_the_source_version() -> None:
    assert metadata.version("toolkit") == toolkit.__version__
