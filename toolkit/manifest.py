"""`manifest.json`: which artifacts lie in a folder, and proof that they are the recorded bytes.

In: folders or artifact files. Out: artifacts whose size and checksum were checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ArtifactError
from toolkit.files import sha256_of, write_json
from toolkit.schema import MANIFEST_SCHEMA_VERSION, Artifact, Manifest, from_json, to_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """An artifact's record, where its file is, and the checkpoint folder it names."""

    record: Artifact
    path: Path
    checkpoint: Path


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`.

    Raises:
        ArtifactError: missing, or not a manifest.
    """
    path = folder / MANIFEST
    try:
        return from_json(Manifest, json.loads(path.read_bytes()), version=MANIFEST_SCHEMA_VERSION)
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


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of `folder`, atomically."""
    write_json(folder / MANIFEST, to_json(manifest))


def relative_to(folder: Path, target: Path) -> str:
    """`target` as a manifest in `folder` names it: a relative path, so that both can move."""
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()


def find_artifacts(paths: Sequence[Path]) -> list[StoredArtifact]:
    """All artifacts of the given folders and files, each checked, none twice.

    Raises:
        ArtifactError: nothing there, a file in no manifest, damaged, or of several checkpoints.
    """
    if not paths:
        raise ArtifactError("no artifacts given; expected export folders or artifact files")
    found: dict[Path, StoredArtifact] = {}
    for path in paths:
        folder = path if path.is_dir() else path.parent
        if not path.exists() and not (folder / MANIFEST).exists():
            raise ArtifactError(f"no {path}; write it first with toolkit export --out {folder}")
        manifest = read_manifest(folder)
        names = [record.path for record in manifest.artifacts]
        for name in names:
            if Path(name).name != name:
                raise ArtifactError(
                    f"{folder / MANIFEST} records {name!r}, expected the name of a file beside it; "
                    "export again with toolkit export --force"
                )
        if path.is_dir() and not names:
            raise ArtifactError(f"{folder / MANIFEST} records no artifact; run toolkit export")
        if not path.is_dir() and path.name not in names:
            raise ArtifactError(
                f"{path} is not recorded in {folder / MANIFEST} (recorded: "
                f"{', '.join(names) or 'nothing'}); export it with toolkit export"
            )
        for record in manifest.artifacts:
            if path.is_dir() or record.path == path.name:
                stored = StoredArtifact(
                    record=record,
                    path=folder / record.path,
                    checkpoint=folder / manifest.checkpoint,
                )
                check_artifact(stored.path, record)
                found.setdefault(stored.path.resolve(), stored)
    _check_one_checkpoint(list(found.values()))
    return list(found.values())


def check_artifact(path: Path, record: Artifact) -> None:
    """Raise ArtifactError unless the file has the recorded size and checksum."""
    again = f"write it again with toolkit export --format {record.format} --force"
    if not path.is_file():
        raise ArtifactError(f"no {path}, which its manifest records; {again}")
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise ArtifactError(
            f"{path}: {size_bytes} bytes, expected {record.size_bytes}; "
            f"the file is {'empty' if size_bytes == 0 else 'truncated or replaced'}: {again}"
        )
    found = sha256_of(path)
    if found != record.sha256:
        raise ArtifactError(
            f"{path}: sha256 {found}, expected {record.sha256}; the file was damaged: {again}"
        )


def _check_one_checkpoint(artifacts: list[StoredArtifact]) -> None:
    first = artifacts[0]
    for stored in artifacts[1:]:
        if stored.record.checkpoint_sha256 != first.record.checkpoint_sha256:
            raise ArtifactError(
                f"{stored.path} comes from checkpoint {stored.record.checkpoint_sha256[:12]}, but "
                f"{first.path} from {first.record.checkpoint_sha256[:12]}; compare artifacts of "
                "one checkpoint at a time, or write both again with toolkit export"
            )
