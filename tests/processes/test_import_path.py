"""A model factory's folder is searched last: a file in it never replaces a library."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S, write_idx

from toolkit.processes.import_path import (
    FOLDERS_VARIABLE,
    add_factory_folder,
    factories_importable,
    factory_folders,
)

LIBRARIES = ("numpy", "json", "torch", "click", "onnxruntime", "execnet", "safetensors")
MODEL = """
from torch import nn
from beside import CLASSES

def net():
    import late
    return nn.Sequential(nn.Flatten(), nn.Linear(36, late.same(CLASSES)))
"""
WEIGHTS = """
import torch
from torch import nn
torch.manual_seed(0)
layer = nn.Linear(36, 10)
torch.save({"1.weight": layer.weight.data, "1.bias": layer.bias.data}, "weights.pt")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, modules that it needs, and files that are named like libraries."""
    (tmp_path / "my_net.py").write_text(MODEL)
    (tmp_path / "beside.py").write_text("CLASSES = 10\n")
    (tmp_path / "late.py").write_text("def same(value):\n    return value\n")
    subprocess.run([sys.executable, "-P", "-c", WEIGHTS], cwd=tmp_path, check=True)
    for name in LIBRARIES:
        trap = f"open({str(tmp_path / 'trapped')!r}, 'a').write({name!r} + ' ')\n"
        (tmp_path / f"{name}.py").write_text(trap)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6), np.uint8)
    write_idx(tmp_path / "test-images-idx3-ubyte", pixels)
    write_idx(tmp_path / "test-labels-idx1-ubyte", np.arange(40, dtype=np.uint8) % 10)
    return tmp_path


def toolkit(folder: Path, *arguments: str, safe: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder; `-P` leaves it out of the path, as the installed script does."""
    return subprocess.run(
        [sys.executable, *(["-P"] if safe else []), "-m", "toolkit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
@pytest.mark.parametrize("safe", [True, False], ids=["script", "python -m"])
def test_files_named_like_libraries_do_not_replace_them(folder: Path, safe: bool) -> None:
    """In the driver, in converters (openvino) and in workers."""
    imported = toolkit(
        folder,
        *("import", "weights.pt", "--model", "my_net:net", "--input-shape", "1,6,6"),
        *("--classes", "10", "--mean", "0.5", "--std", "0.5", "--out", "mine"),
        safe=safe,
    )
    assert imported.returncode == 0, imported.stderr
    model = ("--model", "my_net:net")
    formats = ("--format", "onnx", "--format", "openvino")
    exported = toolkit(folder, "export", "mine", *formats, *model, "--out", "exports", safe=safe)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    runtimes = ("--runtime", "eager", "--runtime", "onnxruntime", "--runtime", "openvino")
    verified = toolkit(
        folder, "verify", "exports", *runtimes, *model, "--data", ".", "--json", safe=safe
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    rows = json.loads(verified.stdout)["parity"]
    assert {row["status"] for row in rows} == {"passed"}
    assert {row["format"] for row in rows} == {"checkpoint", "onnx", "openvino"}
    assert not (folder / "trapped").exists(), (folder / "trapped").read_text()


def test_library_in_place_of_the_factory_is_named(folder: Path) -> None:
    done = toolkit(
        folder,
        *("import", "weights.pt", "--model", "json:net", "--input-shape", "1,6,6"),
        *("--classes", "10", "--mean", "0.5", "--std", "0.5", "--out", "mine"),
    )
    assert done.returncode == 2
    assert f"(imported from {json.__file__})" in done.stderr
    assert not (folder / "trapped").exists()


def test_folders_are_last_and_only_while_a_factory_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    before = list(sys.path)
    with factories_importable():
        assert sys.path == before
    folders = [str(tmp_path), f"{tmp_path}:\n\udcff"]
    for each in (*folders, folders[0]):
        add_factory_folder(each)
    assert factory_folders() == folders
    assert sys.path == before
    with factories_importable():
        assert sys.path == [*before, *folders]
    assert sys.path == before


def test_folder_that_is_on_the_path_anyway_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    add_factory_folder(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    with factories_importable():
        assert sys.path == before
    assert sys.path == before


def test_compiled_code_beside_a_factory_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source is what the user has seen; Python does not check this kind of compiled code."""
    source = tmp_path / "seen_net.py"
    source.write_text("SEEN = False\n")
    compiled = Path(importlib.util.cache_from_source(str(source)))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), cfile=str(compiled), invalidation_mode=mode, doraise=True)
    source.write_text("SEEN = True\n")
    monkeypatch.setenv(FOLDERS_VARIABLE, json.dumps([str(tmp_path)]))
    code = (
        "from toolkit.processes.import_path import factories_importable\n"
        "with factories_importable():\n    import seen_net\nprint(seen_net.SEEN)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert [path.name for path in compiled.parent.iterdir()] == [compiled.name]
