"""Finding artifacts: files must match their manifest to the bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import IRREGULAR, large_file, move_out, put_irregular
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.artifacts.manifest import (
    MANIFEST,
    check_artifact,
    find_artifacts,
    read_manifest,
    relative_to,
    write_manifest,
)
from toolkit.errors import ArtifactError, ToolkitWarning
from toolkit.files import sha256_of, size_of
from toolkit.schema import MANIFEST_SCHEMA_VERSION, Artifact, Manifest

CONTENT = {"model.onnx": b"onnx bytes", "model.pt2": b"pt2 bytes"}


def record_of(
    name: str, content: bytes, *, checkpoint: str = "c" * 64, spec: str = "5" * 64
) -> Artifact:
    return Artifact(
        format=name.partition(".")[2],
        precision="fp32",
        path=name,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        checkpoint_sha256=checkpoint,
        spec_sha256=spec,
        input_shape=(1, 28, 28),
        classes=10,
    )


def write_exports(folder: Path, *, checkpoint: str = "c" * 64, spec: str = "5" * 64) -> Path:
    """Write a folder of two artifacts with their manifest."""
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    records = [
        record_of(name, content, checkpoint=checkpoint, spec=spec)
        for name, content in CONTENT.items()
    ]
    write_manifest(
        folder,
        Manifest(
            schema_version=MANIFEST_SCHEMA_VERSION,
            checkpoint="../checkpoint",
            checkpoint_sha256=checkpoint,
            spec_sha256=spec,
            artifacts=tuple(records),
        ),
    )
    return folder


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    return write_exports(tmp_path / "exports")


def found(*paths: Path) -> list[Path]:
    return [stored.path for stored in find_artifacts(paths)]


def test_folder_selects_all_its_artifacts(exports: Path) -> None:
    stored = find_artifacts([exports])
    assert [item.path for item in stored] == [exports / "model.onnx", exports / "model.pt2"]
    assert [item.record.format for item in stored] == ["onnx", "pt2"]
    assert {item.checkpoint for item in stored} == {exports / "../checkpoint"}


def test_file_selects_itself(exports: Path) -> None:
    assert found(exports / "model.pt2") == [exports / "model.pt2"]


def test_named_artifact_is_found_even_if_another_is_damaged(exports: Path) -> None:
    (exports / "model.onnx").write_bytes(b"")
    assert found(exports / "model.pt2") == [exports / "model.pt2"]


def test_duplicate_paths_are_found_once(exports: Path, tmp_path: Path) -> None:
    """A folder, its file, and the same file through another path."""
    (tmp_path / "link").symlink_to(exports)
    paths = [exports / "model.onnx", exports, exports / ".." / "exports", tmp_path / "link"]
    assert found(*paths) == [exports / "model.onnx", exports / "model.pt2"]


def test_two_folders_of_one_checkpoint_are_combined(exports: Path, tmp_path: Path) -> None:
    other = write_exports(tmp_path / "other")
    assert found(exports, other / "model.onnx") == [
        exports / "model.onnx",
        exports / "model.pt2",
        other / "model.onnx",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"checkpoint": "d" * 64}, r"from checkpoint d{12} \(spec 5{12}\), but .* c{12} \(spec"),
        ({"spec": "6" * 64}, r"from checkpoint c{12} \(spec 6{12}\), but .* \(spec 5{12}\);"),
    ],
)
def test_artifacts_of_two_checkpoints_are_refused(
    exports: Path, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    other = write_exports(tmp_path / "other", **change)
    with pytest.raises(ArtifactError, match=says):
        find_artifacts([exports, other])


@pytest.mark.parametrize("name", ["no", "no/model.onnx"])
def test_missing_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"no .*; create it first with toolkit export"):
        find_artifacts([tmp_path / name])


def test_no_paths_are_refused() -> None:
    with pytest.raises(ArtifactError):
        find_artifacts([])


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no .*manifest\.json; expected a folder"):
        find_artifacts([tmp_path])


def test_manifest_without_artifacts_is_refused(exports: Path) -> None:
    write_manifest(exports, replace(read_manifest(exports), artifacts=()))
    with pytest.raises(ArtifactError, match="lists no artifact; run toolkit export"):
        find_artifacts([exports])


@pytest.mark.parametrize("exists", [True, False])
def test_unrecorded_file_is_refused(exports: Path, exists: bool) -> None:
    if exists:
        (exports / "other.onnx").write_bytes(CONTENT["model.onnx"])
    with pytest.raises(ArtifactError, match=r"not recorded in .*model\.onnx, model\.pt2"):
        find_artifacts([exports / "other.onnx"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a manifest"),
        (b"{", "not a manifest"),
        (b"[]", "not a manifest"),
        (b"null", "not a manifest"),
        (b"[" * 100_000, "not a manifest"),
        (b"\xff\xfe\x00", "not a manifest"),
        (b'{"schema_version": 2}', "missing required field `checkpoint`"),
        (b'{"schema_version": 1}', "schema_version 1, expected 2; export again .* --force"),
    ],
)
def test_broken_manifest_is_refused(exports: Path, content: bytes, message: str) -> None:
    (exports / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        find_artifacts([exports])


def test_a_field_of_the_wrong_type_is_named(exports: Path) -> None:
    data = json.loads((exports / MANIFEST).read_text())
    data["artifacts"][1]["size_bytes"] = "9"
    (exports / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(
        ArtifactError, match=r"Expected `int`, got `str` - at `\$\.artifacts\[1\]\.size_bytes`"
    ):
        find_artifacts([exports])


def test_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ArtifactError, match=r"cannot read .*it is a folder"):
        find_artifacts([tmp_path])


def test_missing_recorded_file_is_refused(exports: Path) -> None:
    (exports / "model.onnx").unlink()
    for path in (exports, exports / "model.onnx"):
        with pytest.raises(ArtifactError, match="although its manifest lists it; export it again"):
            find_artifacts([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, expected 10; the file is empty"),
        (b"onnx byte", "9 bytes, expected 10; the file is truncated or replaced"),
        (b"onnx bytes!", "11 bytes, expected 10; the file is truncated or replaced"),
        (b"onnx bytez", "the file was damaged"),
    ],
)
def test_damaged_file_error_says_how_to_export_again(
    exports: Path, content: bytes, message: str
) -> None:
    (exports / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        find_artifacts([exports])
    assert "export it again with toolkit export --format onnx --force" in str(caught.value)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=64), st.data())
def test_any_flipped_bit_is_detected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(content)
    record = record_of(path.name, content)
    check_artifact(path, record)
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="damaged"):
        check_artifact(path, record)


def test_manifest_round_trips(exports: Path) -> None:
    manifest = read_manifest(exports)
    assert [record.path for record in manifest.artifacts] == list(CONTENT)
    write_manifest(exports, manifest)
    assert read_manifest(exports) == manifest


def test_checkpoint_path_is_relative_so_that_both_folders_can_move(tmp_path: Path) -> None:
    assert relative_to(tmp_path / "exports", tmp_path / "models" / "mine") == "../models/mine"
    assert relative_to(tmp_path, tmp_path) == "."


@pytest.mark.parametrize("name", ["../secret.onnx", "..", ".", "", "/etc/passwd", "a/b"])
def test_a_manifest_cannot_point_out_of_its_folder(exports: Path, name: str) -> None:
    manifest = json.loads((exports / MANIFEST).read_text())
    manifest["artifacts"][0]["path"] = name
    (exports / MANIFEST).write_text(json.dumps(manifest))
    for read in (read_manifest, lambda folder: find_artifacts([folder])):
        with pytest.raises(ArtifactError, match="expected the name of a file in the same folder"):
            read(exports)


def test_a_manifest_records_a_file_once(exports: Path) -> None:
    """Otherwise a small manifest could have one large file hashed thousands of times."""
    manifest = read_manifest(exports)
    write_manifest(exports, replace(manifest, artifacts=manifest.artifacts[:1] * 2))
    with pytest.raises(ArtifactError, match=r"records 'model\.onnx' twice"):
        read_manifest(exports)


def test_an_artifact_of_the_wrong_size_is_refused_before_it_is_read(
    exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "toolkit.artifacts.manifest.sha256_of", lambda *_, **__: pytest.fail("was read")
    )
    large_file(exports / "model.onnx", 1 << 40)
    with pytest.raises(ArtifactError, match="1099511627776 bytes, expected 10"):
        find_artifacts([exports])


def test_an_artifact_larger_than_the_memory_is_refused_before_it_is_read(exports: Path) -> None:
    large_file(exports / "model.onnx", 1 << 42)
    record = replace(read_manifest(exports).artifacts[0], size_bytes=1 << 42)
    with pytest.raises(ArtifactError, match="4,398,046,511,104 bytes, expected at most"):
        check_artifact(exports / "model.onnx", record)


def test_an_artifact_may_be_a_link_inside_its_folder_only(exports: Path, tmp_path: Path) -> None:
    (exports / "model.onnx").rename(exports / "other")
    (exports / "model.onnx").symlink_to("other")
    assert found(exports) == [exports / "model.onnx", exports / "model.pt2"]
    move_out(exports / "other", tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"it is a link to .*elsewhere/other, outside"):
        find_artifacts([exports])


@contextmanager
def nobody() -> Iterator[None]:
    """Run as a user without read access to the test's files."""
    if os.geteuid() != 0:
        pytest.skip("switching to another user needs root")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_folder_is_an_artifact_error(exports: Path) -> None:
    record = read_manifest(exports).artifacts[0]
    exports.chmod(0)
    with nobody():
        for check in (
            lambda: check_artifact(exports / record.path, record),
            lambda: find_artifacts([exports]),
        ):
            with pytest.raises(ArtifactError, match=r"cannot read .*Permission denied"):
                check()


@pytest.mark.skipif(
    not Path("/proc/self/mem").is_file(), reason="needs a file that opens and cannot be read"
)
def test_read_error_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError, match=r"cannot read /proc/self/mem: Input/output error"):
        check_artifact(Path("/proc/self/mem"), record_of("mem", b""))


def write_folder_artifact(folder: Path) -> Path:
    """Write an export folder with one artifact, a folder of two files."""
    artifact = folder / "model.ncnn"
    artifact.mkdir(parents=True)
    (artifact / "model.param").write_bytes(b"graph")
    (artifact / "model.bin").write_bytes(b"weights")
    record = replace(
        record_of("model.ncnn", b""), sha256=sha256_of(artifact), size_bytes=size_of(artifact)
    )
    write_manifest(
        folder,
        Manifest(
            schema_version=MANIFEST_SCHEMA_VERSION,
            checkpoint="../checkpoint",
            checkpoint_sha256="c" * 64,
            spec_sha256="5" * 64,
            artifacts=(record,),
        ),
    )
    return artifact


def test_folder_artifact_is_found_by_its_own_path_and_its_export_folder(
    tmp_path: Path,
) -> None:
    artifact = write_folder_artifact(tmp_path / "exports")
    for path in (artifact.parent, artifact):
        (found,) = find_artifacts([path])
        assert found.path == artifact


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [*IRREGULAR, "link out"])
def test_artifact_folder_with_anything_but_its_own_files_is_refused(
    tmp_path: Path, kind: str
) -> None:
    """Although its checksum was of that."""
    artifact = write_folder_artifact(tmp_path / "exports")
    path = artifact / "model.bin"
    if kind == "link out":
        move_out(path, tmp_path / "elsewhere")
    else:
        put_irregular(path, kind)
    wanted = "bytes, expected" if kind == "a folder" else r"model\.bin in it: it is a"
    with pytest.raises(ArtifactError, match=wanted):
        find_artifacts([artifact.parent])


@pytest.mark.parametrize("damage", ["change", "add", "remove", "empty"])
def test_damaged_artifact_folder_is_refused(tmp_path: Path, damage: str) -> None:
    artifact = write_folder_artifact(tmp_path / "exports")
    if damage == "change":
        (artifact / "model.bin").write_bytes(b"WEIGHTS")
    elif damage == "add":
        (artifact / "more").touch()
    elif damage == "remove":
        (artifact / "model.bin").unlink()
    else:
        (artifact / "model.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model\.ncnn: .*expected .*--format ncnn --force"):
        find_artifacts([artifact.parent])


def test_unrecorded_artifact_folder_is_refused(tmp_path: Path) -> None:
    artifact = write_folder_artifact(tmp_path / "exports")
    other = artifact.parent / "other"
    other.mkdir()
    with pytest.raises(ArtifactError, match=r"other is not recorded in .*recorded: model\.ncnn"):
        find_artifacts([other])


def test_changed_manifest_loses_its_signature(exports: Path) -> None:
    signature = exports / "manifest.sig"
    signature.write_text("signed")
    write_manifest(exports, read_manifest(exports))
    assert signature.exists()
    with pytest.warns(ToolkitWarning, match=r"removed .*manifest.sig.*--sign KEY"):
        write_manifest(exports, replace(read_manifest(exports), checkpoint="../moved"))
    assert not signature.exists()
    assert read_manifest(exports).checkpoint == "../moved"
