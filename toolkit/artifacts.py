"""Export: checkpoint → artifacts, each with its record in `manifest.json`."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from toolkit.checkpoint import load_model
from toolkit.errors import (
    ArtifactError,
    Crashed,
    FailedRun,
    OutputError,
    ToolkitError,
    headline,
)
from toolkit.files import make_folder, publish, scratch_folder, sha256_of
from toolkit.formats import FORMATS, Format, find_format, load_exporter
from toolkit.manifest import MANIFEST, check_artifact, read_manifest, relative_to, write_manifest
from toolkit.model import example_input
from toolkit.progress import Progress, silent
from toolkit.schema import MANIFEST_SCHEMA_VERSION, Artifact, Checkpoint, Manifest

_LOW_DISK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FailedExport:
    """A format that this model could not be written in, and why."""

    format: str
    failure: FailedRun


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export left behind: the manifest in `folder`, which formats were written now, and
    which failed; the others were there already and matched."""

    folder: Path
    manifest: Manifest
    written: tuple[str, ...]
    failures: tuple[FailedExport, ...]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The records of all artifacts in the folder."""
        return self.manifest.artifacts


def export(
    checkpoint: Path,
    *,
    out: Path,
    formats: Sequence[str] = (),
    force: bool = False,
    model: str | None = None,
    progress: Progress = silent,
) -> Export:
    """Write the artifacts of a checkpoint, one file a format, and `manifest.json` beside them.

    Args:
        checkpoint: Checkpoint folder.
        out: Folder for the artifacts.
        formats: Names from `toolkit.formats.FORMATS`; none means all.
        force: Export again what exists and matches, and replace another checkpoint's artifacts.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about each format.

    Returns:
        The manifest, and what was written. A format that fails does not stop the others; it
        stands in `failures`.

    Raises:
        UnknownNameError: an unknown format.
        CheckpointError: the checkpoint is missing or damaged, or its factory is not trusted.
        ArtifactError: `out` holds the artifacts of another checkpoint.
        OutputError: not writable or disk full; files that were there are untouched.
    """
    rows = [find_format(name) for name in dict.fromkeys(formats or FORMATS)]
    module, record = load_model(checkpoint, trusted=model)
    make_folder(out)
    manifest = _open_manifest(out, checkpoint, record, force=force)
    wrapped = NamedClassifier(module).eval()
    example = example_input(record.input.shape, batch_size=2)
    written, failures = [], []
    for number, row in enumerate(rows, start=1):
        versions = row.versions()
        if force or not _is_current(out, manifest, row, versions):
            try:
                artifact = _write(wrapped, example, row, out, checkpoint, record, versions)
            except FailedRun as failure:
                failures.append(FailedExport(format=row.name, failure=failure))
            else:
                manifest = _with_artifact(manifest, artifact)
                write_manifest(out, manifest)
                written.append(row.name)
        progress("export", number, len(rows), row.name)
    return Export(folder=out, manifest=manifest, written=tuple(written), failures=tuple(failures))


class NamedClassifier(nn.Module):
    """The user's model behind the names that every artifact has: `input` → `logits`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Tensor:
        """Float32 `[N,C,H,W]` → logits `[N,K]`."""
        logits: Tensor = self.model(input)
        return logits


def _open_manifest(out: Path, checkpoint: Path, record: Checkpoint, *, force: bool) -> Manifest:
    """The manifest to add to: the one in `out`, or a new one.

    Artifacts of what was in the same checkpoint folder before are stale and fall out of the
    record; those of another checkpoint are kept unless `force`.
    """
    source = relative_to(out, checkpoint)
    fresh = Manifest(
        schema_version=MANIFEST_SCHEMA_VERSION,
        checkpoint=source,
        checkpoint_sha256=record.id.weights_sha256,
        spec_sha256=record.id.spec_sha256,
        artifacts=(),
    )
    if not (out / MANIFEST).exists():
        return fresh
    try:
        old = read_manifest(out)
    except ArtifactError:
        if force:
            return fresh
        raise
    if old.checkpoint_id == record.id:
        return replace(fresh, artifacts=old.artifacts)
    if old.checkpoint != source and not force:
        raise ArtifactError(
            f"{out} holds artifacts of checkpoint {old.checkpoint}, {old.checkpoint_id}, not of "
            f"{checkpoint}, {record.id}; choose another folder with --out, or replace them with "
            "--force"
        )
    return fresh


def _is_current(out: Path, manifest: Manifest, row: Format, versions: dict[str, str]) -> bool:
    wanted = (row.name, versions, manifest.checkpoint_id)
    for artifact in manifest.artifacts:
        if (artifact.format, artifact.versions, artifact.checkpoint_id) == wanted:
            try:
                check_artifact(out / artifact.path, artifact)
            except ArtifactError:
                return False
            return True
    return False


def _write(
    model: nn.Module,
    example: Tensor,
    row: Format,
    out: Path,
    checkpoint: Path,
    record: Checkpoint,
    versions: dict[str, str],
) -> Artifact:
    """Publish one artifact. Killed before its record is in the manifest, it is a file that the
    manifest does not record, or records with another checksum: the next export writes it again."""
    path = out / (checkpoint.resolve().name + row.suffix)
    with scratch_folder(out) as scratch:
        temporary = scratch / path.name
        opset = _call_exporter(row, model, example, temporary, path)
        artifact = Artifact(
            format=row.name,
            precision="fp32",
            path=path.name,
            size_bytes=temporary.stat().st_size,
            sha256=sha256_of(temporary),
            checkpoint_sha256=record.id.weights_sha256,
            spec_sha256=record.id.spec_sha256,
            input_shape=record.input.shape,
            classes=record.classes,
            opset=opset,
            versions=versions,
        )
        publish(temporary, path)
    return artifact


def _call_exporter(
    row: Format, model: nn.Module, example: Tensor, temporary: Path, path: Path
) -> int | None:
    """Write `temporary`, which is to become `path`; returns the opset where there is one."""
    exporter = load_exporter(row)
    try:
        return exporter.export(model, example, temporary)
    except ToolkitError:
        raise
    except OSError as error:
        raise _not_writable(path, error) from error
    except Exception as error:
        if shutil.disk_usage(path.parent).free < _LOW_DISK_BYTES:
            raise _not_writable(path, error) from error
        raise Crashed(
            f"format {row.name} cannot export this model: {headline(error)}",
            stderr_tail=traceback.format_exc(),
        ) from error


def _not_writable(path: Path, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"cannot write {path}: {reason}; free space or choose another folder with --out"
    )


def _with_artifact(manifest: Manifest, artifact: Artifact) -> Manifest:
    kept = [
        old
        for old in manifest.artifacts
        if (old.format, old.precision) != (artifact.format, artifact.precision)
    ]
    order = list(FORMATS)
    artifacts = sorted((*kept, artifact), key=lambda item: order.index(item.format))
    return replace(manifest, artifacts=tuple(artifacts))
