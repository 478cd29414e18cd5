"""Export: every artifact is named, complete, self-contained, recorded, and not written twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from conftest import CHECKPOINT, USUAL, Cli

from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.artifacts.manifest import find_artifacts, read_manifest
from toolkit.checkpoints.storage import load_model, save_checkpoint
from toolkit.errors import ArtifactError, OutputError
from toolkit.files import sha256_of
from toolkit.sessions.candidates import find_subject
from toolkit.trust_store.factories import REFERENCE_FACTORY


def changed_checkpoint(source: Path, folder: Path) -> Path:
    """A checkpoint like `source` with other weights."""
    model, record = load_model(source)
    with torch.no_grad():
        model.get_parameter("fc2.bias")[0] += 1
    save_checkpoint(folder, model, record)
    return folder


def test_every_format_is_recorded_and_checked(exports: Path) -> None:
    manifest = read_manifest(exports)
    assert [item.format for item in manifest.artifacts] == USUAL
    for item in manifest.artifacts:
        path = exports / item.path
        assert item.path == f"mnist-cnn{FORMATS[item.format].suffix}"
        assert (item.size_bytes, item.sha256) == (path.stat().st_size, sha256_of(path))
        assert item.checkpoint_sha256 == sha256_of(CHECKPOINT / "weights.safetensors")
        assert (item.input_shape, item.classes) == ((1, 28, 28), 10)
        assert item.versions["torch"] == FORMATS[item.format].versions()["torch"]
    assert sorted(path.name for path in exports.iterdir()) == sorted(
        [
            *(item.path for item in manifest.artifacts),
            *(f"{item.path}.md" for item in manifest.artifacts),
            "manifest.json",
        ]
    )


def test_onnx_export_is_one_valid_file_with_named_ports_and_dynamic_batch(exports: Path) -> None:
    path = exports / "mnist-cnn.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert [item.name for item in graph.input] == ["input"]
    assert [item.name for item in graph.output] == ["logits"]
    batch, *shape = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [size.dim_value for size in shape] == [1, 28, 28]
    assert all(item.data_location != onnx.TensorProto.EXTERNAL for item in graph.initializer)
    assert "Dropout" not in {node.op_type for node in graph.node}
    record = next(item for item in read_manifest(exports).artifacts if item.format == "onnx")
    assert record.opset == onnx.load(path).opset_import[0].version


def test_torchscript_input_is_named_input(exports: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(exports / "mnist-cnn.torchscript")
    assert [item.name for item in module.forward.schema.arguments] == ["self", "input"]
    assert not module.training


def test_pt2_input_is_named_input_and_its_batch_is_dynamic(exports: Path) -> None:
    program = torch.export.load(exports / "mnist-cnn.pt2")
    assert program.graph_signature.user_inputs == ("input",)
    assert program.module()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_up_to_date_export_is_not_repeated(own_exports: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_exports.glob("mnist-cnn.*")}
    assert export(CHECKPOINT, out=own_exports).written == ()
    assert {path: path.stat().st_mtime_ns for path in own_exports.glob("mnist-cnn.*")} == before


def test_force_exports_again(own_exports: Path) -> None:
    assert export(CHECKPOINT, out=own_exports, formats=["onnx"], force=True).written == (
        "mnist-cnn.onnx",
    )


@pytest.mark.parametrize("damage", ["delete", "flip"])
def test_damaged_artifact_is_exported_again(own_exports: Path, damage: str) -> None:
    path = own_exports / "mnist-cnn.pt2"
    if damage == "delete":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1000] ^= 1
        path.write_bytes(data)
    assert export(CHECKPOINT, out=own_exports).written == ("mnist-cnn.pt2",)
    find_artifacts([own_exports])


def test_manifest_accumulates_formats(tmp_path: Path) -> None:
    export(CHECKPOINT, out=tmp_path, formats=["pt2"])
    done = export(CHECKPOINT, out=tmp_path, formats=["torchscript", "torchscript"])
    assert done.written == ("mnist-cnn.torchscript",)
    assert [item.format for item in done.artifacts] == ["torchscript", "pt2"]


def test_new_weights_in_the_same_folder_replace_stale_artifacts(
    own_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(own_checkpoint, out=out, formats=["torchscript", "pt2"])
    changed_checkpoint(own_checkpoint, own_checkpoint)
    done = export(own_checkpoint, out=out, formats=["pt2"])
    assert [item.format for item in done.artifacts] == ["pt2"]
    assert done.artifacts[0].checkpoint_sha256 == sha256_of(own_checkpoint / "weights.safetensors")


RESPECIFIED: dict[str, dict[str, object]] = {
    "factory": {"model": {"factory": "torch.nn:Sequential", "arguments": {}}},
    "arguments": {"model": {"factory": REFERENCE_FACTORY, "arguments": {"classes": 10}}},
    "mean": {"input": {"shape": [1, 28, 28], "mean": [0.5], "std": [0.3081]}},
    "classes": {"classes": 11},
}


def respecify(folder: Path, change: dict[str, object]) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize("change", list(RESPECIFIED))
def test_same_weights_in_another_model_are_a_different_checkpoint(
    own_exports: Path, own_checkpoint: Path, change: str
) -> None:
    respecify(own_checkpoint, RESPECIFIED[change])
    with pytest.raises(ArtifactError, match=r"was exported from .*\(spec .* is .*\(spec .*again"):
        find_subject([own_exports], checkpoint=own_checkpoint, model=None)


def test_renamed_checkpoint_folder_is_the_same_checkpoint(
    own_exports: Path, own_checkpoint: Path
) -> None:
    respecify(own_checkpoint, {"name": "other", "training": None, "versions": {}})
    assert find_subject([own_exports], checkpoint=own_checkpoint, model=None).artifacts


@pytest.mark.parametrize("change", ["arguments", "mean"])
def test_same_weights_in_another_model_are_exported_again(
    own_checkpoint: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    export(own_checkpoint, out=out, formats=["torchscript"])
    respecify(own_checkpoint, RESPECIFIED[change])
    assert export(own_checkpoint, out=out, formats=["torchscript"]).written == (
        "checkpoint.torchscript",
    )
    assert export(own_checkpoint, out=out, formats=["torchscript"]).written == ()
    assert find_subject([out], checkpoint=None, model=None).artifacts


def test_artifacts_of_same_weights_in_another_model_are_kept_without_force(
    own_exports: Path, own_checkpoint: Path
) -> None:
    respecify(own_checkpoint, RESPECIFIED["mean"])
    with pytest.raises(ArtifactError, match=r"contains artifacts of checkpoint .*--force"):
        export(own_checkpoint, out=own_exports, formats=["torchscript"])


@pytest.mark.parametrize("field", ["checkpoint_sha256", "spec_sha256"])
def test_recorded_artifact_of_another_checkpoint_is_exported_again(
    own_exports: Path, field: str
) -> None:
    """Export does not treat an artifact that verify refuses as up to date."""
    manifest = json.loads((own_exports / "manifest.json").read_text())
    manifest["artifacts"][0][field] = "0" * 64
    (own_exports / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="comes from checkpoint"):
        find_subject([own_exports], checkpoint=None, model=None)
    assert export(CHECKPOINT, out=own_exports).written == ("mnist-cnn.torchscript",)
    assert find_subject([own_exports], checkpoint=None, model=None).artifacts


def test_manifest_with_a_path_outside_its_folder_is_refused(own_exports: Path) -> None:
    manifest = json.loads((own_exports / "manifest.json").read_text())
    manifest["artifacts"][0]["path"] = "../exports/mnist-cnn.torchscript"
    (own_exports / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="expected the name of a file in the same folder"):
        export(CHECKPOINT, out=own_exports)
    assert export(CHECKPOINT, out=own_exports, formats=["torchscript"], force=True).written


def killed_before_the_manifest(checkpoint: Path, out: Path) -> None:
    """Export TorchScript, and stop after the artifact is published but before it is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.artifacts.export.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, out=out, formats=["torchscript"], force=True)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_first_export_killed_before_the_manifest_is_repaired(
    own_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed_before_the_manifest(own_checkpoint, out)
    assert [path.name for path in out.iterdir()] == ["checkpoint.torchscript"]
    with pytest.raises(ArtifactError, match=r"no .*manifest\.json; .*toolkit export"):
        find_subject([out], checkpoint=None, model=None)
    assert export(own_checkpoint, out=out, formats=["torchscript"]).written == (
        "checkpoint.torchscript",
    )
    assert find_subject([out], checkpoint=None, model=None).artifacts


@pytest.mark.parametrize("change", ["weights", "arguments", "mean"])
def test_export_killed_before_the_manifest_is_refused_and_repaired(
    own_checkpoint: Path, tmp_path: Path, change: str
) -> None:
    """The manifest in the folder is the old one, for the earlier checkpoint."""
    out = tmp_path / "out"
    export(own_checkpoint, out=out, formats=["torchscript"])
    if change == "weights":
        changed_checkpoint(own_checkpoint, own_checkpoint)
    else:
        respecify(own_checkpoint, RESPECIFIED[change])
    killed_before_the_manifest(own_checkpoint, out)
    with pytest.raises(ArtifactError, match="toolkit export"):
        find_subject([out], checkpoint=None, model=None)
    assert export(own_checkpoint, out=out, formats=["torchscript"]).written == (
        "checkpoint.torchscript",
    )
    assert find_subject([out], checkpoint=None, model=None).artifacts


def test_folder_at_the_artifact_path_gives_one_clear_error(
    own_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "checkpoint.torchscript").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*torchscript: Is a directory"):
        export(own_checkpoint, out=tmp_path / "out", formats=["torchscript"])


def test_missing_package_of_a_format_gives_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(FORMATS["onnx"], distributions=("torch", "no-such-package", "nor-this-one"))
    monkeypatch.setitem(FORMATS, "onnx", row)
    (failed,) = export(CHECKPOINT, out=tmp_path, formats=["onnx"]).failures
    assert str(failed.failure) == "not installed: pip install no-such-package nor-this-one"


def test_artifacts_of_another_checkpoint_are_kept_without_force(
    own_exports: Path, tmp_path: Path
) -> None:
    other = changed_checkpoint(CHECKPOINT, tmp_path / "other")
    before = (own_exports / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="contains artifacts of checkpoint"):
        export(other, out=own_exports, formats=["pt2"])
    assert (own_exports / "manifest.json").read_bytes() == before
    done = export(other, out=own_exports, formats=["pt2"], force=True)
    assert [item.format for item in done.artifacts] == ["pt2"]


def test_folders_can_move_together(exports: Path, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "one" / "checkpoint")
    export(tmp_path / "one" / "checkpoint", out=tmp_path / "one" / "out", formats=["pt2"])
    (tmp_path / "one").rename(tmp_path / "two")
    (stored,) = find_artifacts([tmp_path / "two" / "out"])
    assert stored.checkpoint.resolve() == (tmp_path / "two" / "checkpoint").resolve()


BRANCHES = """
from torch import nn

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y if float(y.sum()) > 0 else -y
"""


def test_a_format_that_cannot_be_written_does_not_stop_the_others(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "branches.py").write_text(BRANCHES)
    torch.save({"fc.weight": torch.zeros(10, 784), "fc.bias": torch.ones(10)}, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    made = cli(
        *("import", "w.pt", "--model", "branches:Branches", "--input-shape", "1,28,28"),
        *("--classes", 10, "--mean", 0.5, "--std", 0.5, "--out", "own"),
    )
    assert made.exit_code == 0, made.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer rightly warns about the branch
        result = cli("export", "own", "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 3
    assert record["written"] == ["own.torchscript"]
    assert set(record["failed"]) == {"onnx fp32", "pt2 fp32"}
    assert "torch.export cannot take this model" in record["failed"]["pt2 fp32"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte: enough for the folder, but not for an artifact."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("format_name", USUAL)
def test_full_disk_gives_one_clear_error_and_leaves_no_files(
    full_disk: Path, format_name: str
) -> None:
    with pytest.raises(OutputError, match=r"No space left.*--out"):
        export(CHECKPOINT, out=full_disk, formats=[format_name])
    assert list(full_disk.iterdir()) == []


def test_full_disk_keeps_the_old_checkpoint(full_disk: Path) -> None:
    (full_disk / "checkpoint.json").write_text("{}")
    model, record = load_model(CHECKPOINT)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(full_disk, model, record)
    assert [path.name for path in full_disk.iterdir()] == ["checkpoint.json"]


def test_file_at_the_output_folder_gives_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        export(CHECKPOINT, out=tmp_path / "file", formats=["pt2"])
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_checkpoint_folder_gives_one_clear_error(
    own_exports: Path, own_checkpoint: Path
) -> None:
    manifest = json.loads((own_exports / "manifest.json").read_text())
    manifest["checkpoint"] = "../gone"
    (own_exports / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"gone, which does not exist; .*--checkpoint"):
        find_subject([own_exports], checkpoint=None, model=None)
    assert find_subject([own_exports], checkpoint=own_checkpoint, model=None).artifacts
