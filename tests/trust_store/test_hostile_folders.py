"""Folders that somebody sends: nothing in them runs, and none of them passes.

Each case plants code in a copy of healthy exports and makes the checksums match. If the code ran,
it would create a file. `test_the_code_works_where_it_runs` shows that it would.
"""

from __future__ import annotations

import json
import pickle
import platform
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import Cli

import toolkit
from toolkit.checkpoints.storage import read_checkpoint
from toolkit.errors import NotTrustedError
from toolkit.files import sha256_of, size_of
from toolkit.schema import Configuration, Settings

LIBRARY = """
#include <stdio.h>
__attribute__((constructor)) static void opened(void) {{
    FILE *file = fopen("{marker}", "w");
    if (file) fclose(file);
}}
"""
FACTORY = "from pathlib import Path\nPath({marker!r}).touch()\n"


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


class Writer(torch.nn.Module):
    """A model whose forward creates a file."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = torch.from_file(self.marker, shared=True, size=4)
        return x.flatten(1)[:, :10] + written.sum()


def record_as(path: Path, **changes: object) -> None:
    """Change the record of an artifact, and make its size and checksum match."""
    manifest = path.parent / "manifest.json"
    record = json.loads(manifest.read_text())
    for each in record["artifacts"]:
        if each["path"] == path.name:
            each |= {"sha256": sha256_of(path), "size_bytes": size_of(path), **changes}
    manifest.write_text(json.dumps(record))


def edit_program(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the program in a `.pt2` file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for name in entries:
        if name.endswith("models/model.json"):
            program = json.loads(entries[name])
            edit(program)
            entries[name] = json.dumps(program).encode()
    write_zip(path, entries)


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def python_for(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def guards_of_pt2(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.pt2"
    edit_program(path, lambda program: program.update(guards_code=[python_for(marker)]))
    return path


def shape_of_pt2(folder: Path, marker: Path) -> Path:
    def edit(program: dict[str, Any]) -> None:
        for value in program["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = python_for(marker)

    path = folder / "mnist-cnn.pt2"
    edit_program(path, edit)
    return path


def compiled(marker: Path) -> bytes:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    source, library = marker.with_suffix(".c"), marker.with_suffix(".so")
    source.write_text(LIBRARY.format(marker=marker))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library.read_bytes()


def library_in_pt2(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.pt2"
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        for name, content in native_code(marker).items():
            archive.writestr(f"{root}/{name}", content)
    return path


def native_code(marker: Path) -> dict[str, bytes]:
    """Return the files of a model that AOTInductor compiled."""
    device = {"AOTI_DEVICE_KEY": "cpu", "AOTI_MACHINE": platform.machine()}
    return {
        "data/aotinductor/model/net.wrapper.so": compiled(marker),
        "data/aotinductor/model/net.wrapper_metadata.json": json.dumps(device).encode(),
    }


def aotinductor_package(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.pt2"
    write_zip(path, {f"net/{name}": content for name, content in native_code(marker).items()})
    record_as(path, format="aotinductor")
    return path


def pickle_in_pt2(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.pt2"
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/constants/custom_obj_0", pickle.dumps(Touches(marker)))
    return path


def torchscript_that_writes(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script is deprecated
        torch.jit.script(Writer(str(marker))).save(str(path))
    return path


def torchscript_called_onnx(folder: Path, marker: Path) -> Path:
    path = torchscript_that_writes(folder, marker)
    record_as(path, format="onnx")
    return path


def factory_with_arguments(folder: Path, marker: Path) -> Path:
    """The checkpoint calls a function of the standard library."""
    return name_factory(
        folder, "shutil:copyfile", {"src": str(folder / "manifest.json"), "dst": str(marker)}
    )


def factory_beside_the_checkpoint(folder: Path, marker: Path) -> Path:
    (folder / "own_net.py").write_text(FACTORY.format(marker=str(marker)))
    return name_factory(folder, "own_net:build", {})


def name_factory(folder: Path, factory: str, arguments: dict[str, str]) -> Path:
    """Let a copy of the checkpoint name this factory, and the manifest this checkpoint."""
    path = folder / "checkpoint" / "checkpoint.json"
    record = json.loads(path.read_text())
    record["model"] = {"factory": factory, "arguments": arguments}
    path.write_text(json.dumps(record))
    found = read_checkpoint(path.parent).id
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    for each in [content, *content["artifacts"]]:
        each["spec_sha256"] = found.spec_sha256
    manifest.write_text(json.dumps(content))
    return folder / "mnist-cnn.onnx"


def pickle_as_weights(folder: Path, marker: Path) -> Path:
    weights = folder / "checkpoint" / "weights.safetensors"
    weights.write_bytes(pickle.dumps(Touches(marker)))
    record = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())
    record["sha256"] = sha256_of(weights)
    (folder / "checkpoint" / "checkpoint.json").write_text(json.dumps(record))
    content = json.loads((folder / "manifest.json").read_text())
    for each in [content, *content["artifacts"]]:
        each["checkpoint_sha256"] = record["sha256"]
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder / "mnist-cnn.onnx"


def artifact_outside(folder: Path, marker: Path) -> Path:
    content = json.loads((folder / "manifest.json").read_text())
    shutil.copy(folder / "mnist-cnn.onnx", marker.parent / "outside.onnx")
    content["artifacts"][0]["path"] = "../outside.onnx"
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def external_data(folder: Path, marker: Path) -> Path:
    path = folder / "mnist-cnn.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    (marker.parent / "outside.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../outside.bin"
    path.write_bytes(model.SerializeToString())
    return path


HOSTILE = (
    guards_of_pt2,
    shape_of_pt2,
    library_in_pt2,
    pickle_in_pt2,
    aotinductor_package,
    torchscript_that_writes,
    torchscript_called_onnx,
    factory_with_arguments,
    factory_beside_the_checkpoint,
    pickle_as_weights,
    artifact_outside,
    external_data,
)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that planted code creates."""
    return tmp_path / "ran"


@pytest.fixture
def folder(
    exports: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the exports and of their checkpoint, sent by somebody else."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    sent = tmp_path / "sent"
    shutil.copytree(exports, sent)
    shutil.copytree(checkpoint, sent / "checkpoint")
    content = json.loads((sent / "manifest.json").read_text())
    content["checkpoint"] = "checkpoint"
    (sent / "manifest.json").write_text(json.dumps(content))
    monkeypatch.chdir(sent)  # a factory in the current folder would be found
    return sent


@pytest.mark.parametrize("plant", HOSTILE, ids=lambda plant: plant.__name__)
def test_a_folder_that_somebody_sends_runs_nothing_and_does_not_pass(
    cli: Cli,
    folder: Path,
    marker: Path,
    small_data: Path,
    plant: Callable[[Path, Path], Path],
) -> None:
    path = plant(folder, marker)
    if path.is_file():
        record_as(path)
    result = cli("verify", path, "--data", small_data, "--json")
    assert not marker.exists()
    assert result.exit_code in (2, 3), result.output
    if result.exit_code == 2:
        assert result.stderr.count("Error: ") == 1
    else:  # a row that could not be run; the checkpoint itself may pass
        rows = [row for row in json.loads(result.stdout)["parity"] if row["format"] != "checkpoint"]
        assert {row["status"] for row in rows}.isdisjoint({"passed", "undecided"})


def test_settings_that_somebody_sends_run_nothing(
    folder: Path, marker: Path, small_data: Path
) -> None:
    """`bench --settings` takes the location of an artifact from a file."""
    path = guards_of_pt2(folder, marker)
    record_as(path)
    tuned = Configuration(
        runtime="pt2",
        format="pt2",
        precision="fp32",
        artifact_path=str(path),
        artifact_sha256=sha256_of(path),
        settings=Settings(threads=1),
        batch_size=20,
    )
    with pytest.raises(NotTrustedError, match="toolkit trust"):
        toolkit.bench([], tuned=tuned, data=small_data)
    assert not marker.exists()


RUN: dict[Callable[[Path, Path], Path], str] = {
    guards_of_pt2: "torch.export.load(path).module()(torch.zeros(2, 1, 28, 28))",
    shape_of_pt2: "torch.export.load(path)",
    library_in_pt2: "torch.export.pt2_archive._package.load_pt2(path)",
    aotinductor_package: "torch._inductor.aoti_load_package(path)",
    torchscript_that_writes: "torch.jit.load(path)(torch.zeros(2, 1, 28, 28))",
    pickle_in_pt2: "pickle.loads(zipfile.ZipFile(path).read(zipfile.ZipFile(path).namelist()[-1]))",
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", list(RUN), ids=lambda plant: plant.__name__)
def test_the_code_works_where_it_runs(
    folder: Path, marker: Path, plant: Callable[[Path, Path], Path]
) -> None:
    """Without this, the tests above would pass with planted code that is broken."""
    path = plant(folder, marker)
    imports = "import contextlib, pickle, sys, zipfile, torch, torch.export.pt2_archive._package"
    script = (
        f"{imports}\npath = sys.argv[1]\nwith contextlib.suppress(Exception):\n    {RUN[plant]}\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False, capture_output=True)
    assert marker.exists()
