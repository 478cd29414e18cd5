"""The manifest `manifest.json`: the artifacts of a folder, with checksums that are checked.

In: folders or artifact files. Out: artifacts whose size and checksum were checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolkit.artifacts.parsers.onnx import read_onnx
from toolkit.errors import ArtifactError, ToolkitWarning
from toolkit.files import read_json, refuse_large, remove_file, sha256_of, size_of, write_json
from toolkit.schema import MANIFEST_SCHEMA_VERSION, Artifact, Manifest, from_json, to_json

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""The signature of the manifest and of all other files in its folder; see `signing`."""

_HOME = Path("~")


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """An artifact's record, the path of its file, and the checkpoint folder that it names."""

    record: Artifact
    path: Path
    checkpoint: Path


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of `folder`; every artifact in it is a file in that folder.

    Raises:
        ArtifactError: Missing, not a manifest, or it names files outside its folder.
    """
    path = folder / MANIFEST
    try:
        data = read_json(path, within=folder)
        manifest = from_json(Manifest, data, version=MANIFEST_SCHEMA_VERSION)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"no {path}; expected a folder that toolkit export wrote: toolkit export --out {folder}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(
            f"{path}: not a manifest: {error}; export again with toolkit export --force"
        ) from error
    _check_names([record.path for record in manifest.artifacts], path)
    return manifest


def _check_names(names: Sequence[str], manifest: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            raise ArtifactError(
                f"{manifest} records {name!r}, expected the name of a file in the same folder; "
                "export again with toolkit export --force"
            )
        if name in seen:
            raise ArtifactError(
                f"{manifest} records {name!r} twice; export again with toolkit export --force"
            )
        seen.add(name)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of `folder`, atomically. The signature of another manifest is removed
    first.

    Warns:
        ToolkitWarning: There was one.
    """
    path, content = folder / MANIFEST, to_json(manifest)
    with contextlib.suppress(OSError, ValueError):
        if read_json(path) == json.loads(json.dumps(content)):
            return
    remove_signature(folder)
    write_json(path, content)


def remove_signature(folder: Path) -> None:
    """Remove the signature of `folder` before one of its files changes.

    Warns:
        ToolkitWarning: There was one.
    """
    if remove_file(folder / SIGNATURE):
        warnings.warn(
            f"removed {folder / SIGNATURE}: it signed other files than {folder} holds now; sign "
            "them with toolkit export --sign KEY",
            ToolkitWarning,
            stacklevel=3,
        )


def relative_to(folder: Path, target: Path) -> str:
    """Return `target` as a file in `folder` names it: a relative path, so that both can be moved.

    If it would lead into the user's home from outside, it begins with `~`: the name of a home is
    usually that of its user.
    """
    inside, outside = target.resolve(), folder.resolve()
    home = Path(os.path.realpath(Path("~").expanduser()))
    if inside.is_relative_to(home) and not outside.is_relative_to(home) and home != home.parent:
        return (_HOME / inside.relative_to(home)).as_posix()
    return Path(os.path.relpath(inside, outside)).as_posix()


def find_relative(folder: Path, name: str) -> Path:
    """Return what `relative_to` named in a file in `folder`."""
    return Path(name).expanduser() if Path(name).is_relative_to(_HOME) else folder / name


def find_artifacts(paths: Sequence[Path]) -> list[StoredArtifact]:
    """Return all artifacts of the given folders and files, each checked, without duplicates.

    Raises:
        ArtifactError: Nothing there, a file in no manifest, damaged, or of several checkpoints.
    """
    if not paths:
        raise ArtifactError("no artifacts given; expected export folders or artifact files")
    found: dict[Path, StoredArtifact] = {}
    for path in paths:
        folder = folder_of(path)
        manifest = read_manifest(folder)
        names = [record.path for record in manifest.artifacts]
        whole = folder == path
        if whole and not names:
            raise ArtifactError(f"{folder / MANIFEST} lists no artifact; run toolkit export")
        if not whole and path.name not in names:
            raise ArtifactError(
                f"{path} is not recorded in {folder / MANIFEST} (recorded: "
                f"{', '.join(names) or 'nothing'}); export it with toolkit export"
            )
        for record in manifest.artifacts:
            if whole or record.path == path.name:
                stored = StoredArtifact(
                    record=record,
                    path=folder / record.path,
                    checkpoint=find_relative(folder, manifest.checkpoint),
                )
                check_artifact(stored.path, record)
                found.setdefault(stored.path.resolve(), stored)
    _check_one_checkpoint(list(found.values()))
    return list(found.values())


def check_artifact(path: Path, record: Artifact) -> None:
    """Raise ArtifactError unless the file can be read, has the recorded size and checksum, and
    refers to no other files: weights in other files would not be checked."""
    again = f"export it again with toolkit export --format {record.format} --force"
    with _as_artifact_error(path):
        if not path.exists():
            raise ArtifactError(f"no {path}, although its manifest lists it; {again}")
        size_bytes = size_of(path, within=path.parent)
    if size_bytes != record.size_bytes:
        raise ArtifactError(
            f"{path}: {size_bytes} bytes, expected {record.size_bytes}; "
            f"the file is {'empty' if size_bytes == 0 else 'truncated or replaced'}: {again}"
        )
    with _as_artifact_error(path):
        refuse_large(path)
        found = sha256_of(path, within=path.parent)
    if found != record.sha256:
        raise ArtifactError(
            f"{path}: sha256 {found}, expected {record.sha256}; the file was damaged: {again}"
        )
    if record.format == "onnx":
        _refuse_external_data(path)


def _refuse_external_data(path: Path) -> None:
    """Raise ArtifactError if an ONNX file has external data. If the file is not ONNX, the runtime
    reports that in its row."""
    with _as_artifact_error(path), contextlib.suppress(ValueError):
        external = read_onnx(path).external
        if external:
            raise ArtifactError(
                f"{path} keeps tensors in other files ({', '.join(external)}), which no "
                "checksum in its manifest covers; expected one file: merge them with "
                f"onnx.save(onnx.load({str(path)!r}), {str(path)!r}), or export it again with "
                "toolkit export --format onnx --force"
            )


def folder_of(path: Path) -> Path:
    """Return the export folder of an artifact or folder: the path itself, or the folder that
    contains it.

    Raises:
        ArtifactError: Nothing is there, or it cannot be read.
    """
    with _as_artifact_error(path):
        folder = path if path.is_dir() and not _is_artifact(path) else path.parent
        if not path.exists() and not (folder / MANIFEST).exists():
            raise ArtifactError(f"no {path}; create it first with toolkit export --out {folder}")
    return folder


def _is_artifact(folder: Path) -> bool:
    """Return whether the folder is an artifact, not an export folder."""
    try:
        beside = read_manifest(folder.parent)
    except ArtifactError:
        return False
    return (
        folder.name in [record.path for record in beside.artifacts]
        or not (folder / MANIFEST).exists()
    )


@contextmanager
def _as_artifact_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}; expected a readable folder or file "
            "that toolkit export wrote"
        ) from error


def _check_one_checkpoint(artifacts: list[StoredArtifact]) -> None:
    first = artifacts[0]
    for stored in artifacts[1:]:
        if stored.record.checkpoint_id != first.record.checkpoint_id:
            raise ArtifactError(
                f"{stored.path} comes from checkpoint {stored.record.checkpoint_id}, but "
                f"{first.path} from {first.record.checkpoint_id}; compare artifacts of one "
                "checkpoint at a time, or export both again with toolkit export"
            )
