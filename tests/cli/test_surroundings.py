"""Commands in unusual surroundings: strange paths, missing or full folders, low limits.

They work, or say in one line what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import CHECKPOINT, PATIENCE_S

ONE = ("--runtime", "onnxruntime", "--threads", "1")
ROOT = os.geteuid() == 0


def toolkit(
    *arguments: object,
    before: str = "",
    cwd: Path | None = None,
    environment: Mapping[str, str | Path | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, after the lines of shell in `before`; None removes a variable."""
    given = environment or {}
    removed = [name for name, value in given.items() if value is None]
    changed = {name: str(value) for name, value in {**os.environ, **given}.items()}
    changed = {name: value for name, value in changed.items() if name not in removed}
    return subprocess.run(
        ["sh", "-c", f'{before}\nexec "$@"', "sh", sys.executable, "-P", "-m", "toolkit"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=PATIENCE_S,
        cwd=cwd,
        env=changed,
    )


def verify(exports: Path, data: Path, environment: Mapping[str, str | Path | None]) -> None:
    """Verify one artifact, which must pass."""
    arguments = (exports / "mnist-cnn.onnx", *ONE, "--data", data, "--json")
    done = toolkit("verify", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["parity"]] == ["passed"]


def assert_said(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that it failed with one error line, which has these parts."""
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    for part in parts:
        assert part in error


@pytest.mark.slow
@pytest.mark.parametrize("language", ["C", None])
def test_strange_paths_work(small_data: Path, tmp_path: Path, language: str | None) -> None:
    """In the names of checkpoint, outputs, data, temporary folder, home and current folder."""
    folder = tmp_path / os.fsdecode("a space, 'one' \"two\" `$HOME` \\ *\n→ ü".encode())
    for each in ("tmp", "home"):
        (folder / each).mkdir(parents=True)
    shutil.copytree(CHECKPOINT, folder / "cnn")
    shutil.copytree(small_data, folder / "data")
    environment = {"TMPDIR": folder / "tmp", "HOME": folder / "home", "LC_ALL": language}
    exported = toolkit(
        *("export", folder / "cnn", "--format", "onnx", "--format", "mnn", "--out", folder / "out"),
        cwd=folder,
        environment=environment,
    )
    assert exported.returncode == 0, exported.stdout + exported.stderr
    done = toolkit(
        *("verify", folder / "out", "--data", folder / "data", "--json"),
        *("--runtime", "onnxruntime", "--runtime", "mnn"),
        cwd=folder,
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    rows = [(row["runtime"], row["status"]) for row in json.loads(done.stdout)["parity"]]
    assert rows == [("onnxruntime", "passed"), ("mnn", "passed")]
    assert not list((folder / "tmp").glob("toolkit-*"))


def test_path_that_is_no_text_is_named(tmp_path: Path, small_data: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bytes \xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system does not allow such a name")
    exported = toolkit("export", CHECKPOINT, "--format", "onnx", "--out", folder)
    assert exported.returncode == 0, exported.stderr
    done = toolkit("verify", folder / "mnist-cnn.onnx", *ONE, "--data", small_data)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "unsupported: the path" in said
    assert "is not valid UTF-8; rename" in said


@pytest.mark.parametrize("home", [None, "/nonexistent", "/dev/null"])
def test_home_that_is_missing_or_cannot_be_written_costs_only_the_cache(
    own_exports: Path, small_data: Path, home: str | None
) -> None:
    verify(own_exports, small_data, {"HOME": home, "XDG_CACHE_HOME": None, "XDG_STATE_HOME": None})


def test_missing_temporary_folder_is_replaced(own_exports: Path, small_data: Path) -> None:
    verify(own_exports, small_data, {"TMPDIR": "/nonexistent"})


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system in memory, with the options of the test's parameter."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", request.param, "none", str(folder)]
    if not ROOT or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("mounted", ["size=4k,nr_inodes=1"], indirect=True)
def test_full_temporary_folder_is_replaced(
    own_exports: Path, small_data: Path, mounted: Path
) -> None:
    verify(own_exports, small_data, {"TMPDIR": mounted})


@pytest.mark.parametrize("mounted", ["size=1m"], indirect=True)
def test_temporary_folder_that_fills_up_is_named(mounted: Path, tmp_path: Path) -> None:
    done = toolkit(
        *("export", CHECKPOINT, "--format", "openvino", "--precision", "int8"),
        *("--out", tmp_path / "out"),
        environment={"TMPDIR": mounted},
    )
    assert_said(done, "cannot write to the temporary folder", "free disk space, or set TMPDIR")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mounted", ["size=100m,noexec"], indirect=True)
def test_temporary_folder_without_execution_is_enough(
    own_exports: Path, small_data: Path, mounted: Path
) -> None:
    verify(own_exports, small_data, {"TMPDIR": mounted})


def test_low_limit_of_memory_is_named(tmp_path: Path) -> None:
    done = toolkit(
        *("export", CHECKPOINT, "--format", "torchscript", "--out", tmp_path / "out"),
        before="ulimit -v 400000",
    )
    assert_said(done, "out of memory", "ulimit -v is 400000")


def test_low_limit_of_a_file_is_named(tmp_path: Path) -> None:
    done = toolkit(
        *("export", CHECKPOINT, "--format", "torchscript", "--out", tmp_path / "out"),
        before="ulimit -f 100",
    )
    assert_said(done, "File too large")
    assert list(tmp_path.rglob("*.torchscript")) == []


def test_low_limit_of_open_files_is_an_error_or_a_row(own_exports: Path, small_data: Path) -> None:
    done = toolkit(
        *("verify", own_exports / "mnist-cnn.onnx", *ONE, "--data", small_data),
        before="ulimit -n 8",
    )
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr
    assert "Too many open files" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or not ROOT, reason="needs root and unshare")
def test_dev_shm_is_not_needed(own_exports: Path, small_data: Path, tmp_path: Path) -> None:
    hidden = "mount --make-rprivate / && mount -t tmpfs -o ro none /dev/shm"
    command = f"{hidden} && exec {sys.executable} -P -m toolkit"
    artifact = own_exports / "mnist-cnn.onnx"
    for line in (
        f"verify {artifact} --runtime onnxruntime --data {small_data}",
        f"train --data {small_data} --device cpu --epochs 1 --out {tmp_path}/trained",
    ):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{command} {line}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        if "unshare failed" in done.stderr or "mount:" in done.stderr:
            pytest.skip("needs the right to mount")
        assert done.returncode == 0, done.stderr
