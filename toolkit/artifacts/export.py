"""Export: checkpoint → artifacts, each with its record in `manifest.json`."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from toolkit.artifacts.calibration import CalibrationSettings, draw
from toolkit.artifacts.conversion import cannot_export, export_apart
from toolkit.artifacts.formats import (
    Format,
    Request,
    Written,
    choose_formats,
    known_formats,
    load_exporter,
)
from toolkit.artifacts.manifest import (
    MANIFEST,
    check_artifact,
    read_manifest,
    relative_to,
    write_manifest,
)
from toolkit.artifacts.rounding.number_formats import MEASURED_IMAGES
from toolkit.checkpoints.model import example_input, exportable
from toolkit.checkpoints.storage import load_model
from toolkit.errors import (
    ArtifactError,
    Crashed,
    DatasetError,
    FailedRun,
    OutputError,
    SettingError,
    ToolkitError,
    UnknownNameError,
)
from toolkit.files import make_folder, publish, scratch_folder, sha256_of, size_of
from toolkit.progress import Progress, silent
from toolkit.schema import (
    EXPORTED_PRECISIONS,
    MANIFEST_SCHEMA_VERSION,
    Artifact,
    Calibration,
    Checkpoint,
    Isa,
    Manifest,
    Precision,
)
from toolkit.settings import check_positive

_LOW_DISK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FailedExport:
    """A format that this model could not be written in, in this precision, and why."""

    format: str
    precision: Precision
    failure: FailedRun


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export left behind: the manifest in `folder`, the paths there that were written now,
    and what failed; the others were there already and matched."""

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
    precisions: Sequence[Precision] = ("fp32",),
    calibration: CalibrationSettings | None = None,
    isas: Sequence[Isa] | None = None,
    force: bool = False,
    model: str | None = None,
    timeout_s: float = 600.0,
    progress: Progress = silent,
) -> Export:
    """Write the artifacts of a checkpoint, one a format and precision, and `manifest.json` beside
    them.

    Args:
        checkpoint: Checkpoint folder.
        out: Folder for the artifacts.
        formats: Names from `toolkit.artifacts.formats`, or `all`; none means the usual ones:
            TorchScript, ONNX and pt2.
        precisions: Each format is written in those of them that it has.
        calibration: Which training images int8 ranges are measured on; None is 500 of MNIST's.
        isas: Instruction sets on which int8 arithmetic shall be exact; None is all.
        force: Export again what exists and matches, and replace another checkpoint's artifacts.
        model: The model factory to trust, where it is not the toolkit's own.
        timeout_s: A converter that takes longer is ended.
        progress: Told about each artifact.

    Returns:
        The manifest, and what was written. What fails does not stop the others; it stands in
        `failures`.

    Raises:
        UnknownNameError: an unknown format.
        SettingError: a format that was named has none of the precisions.
        DatasetError: int8 is asked for, and the training images are missing or do not fit.
        CheckpointError: the checkpoint is missing or damaged, or its factory is not trusted.
        ArtifactError: `out` holds the artifacts of another checkpoint.
        OutputError: not writable or disk full; files that were there are untouched.
    """
    pairs = choose_artifacts(formats, precisions)
    check_positive("--timeout", timeout_s)
    module, record = load_model(checkpoint, trusted=model)
    images, drawn = None, None
    wanted = {precision for _, precision in pairs}
    settings = calibration or CalibrationSettings()
    if "int8" in wanted:
        images, drawn = draw(settings, record)
    measured = images
    if images is None and wanted & {"int8-dynamic", "int8-weights"}:
        measured = _draw_if_there(settings, record)
    make_folder(out)
    manifest = _open_manifest(out, checkpoint, record, force=force)
    if (out / MANIFEST).exists() and manifest.artifacts:
        write_manifest(out, manifest)  # the checkpoint's folder may be another now
    writer = _Writer(
        out=out,
        checkpoint=checkpoint,
        record=record,
        model=module,
        trusted=model,
        images=images,
        drawn=drawn,
        measured=None if measured is None else measured[:MEASURED_IMAGES],
        isas=None if isas is None else tuple(sorted(set(isas))),
        timeout_s=timeout_s,
    )
    written, failures = [], []
    for number, (row, precision) in enumerate(pairs):
        progress("export", number, len(pairs), f"{row.name} {precision}")
        if force or not writer.is_current(manifest, row, precision):
            try:
                artifact = writer.write(row, precision)
            except FailedRun as failure:
                failed = FailedExport(format=row.name, precision=precision, failure=failure)
                failures.append(failed)
            else:
                manifest = _with_artifact(manifest, artifact)
                write_manifest(out, manifest)
                written.append(artifact.path)
    progress("export", len(pairs), len(pairs))
    return Export(folder=out, manifest=manifest, written=tuple(written), failures=tuple(failures))


def choose_artifacts(
    formats: Sequence[str], precisions: Sequence[Precision]
) -> list[tuple[Format, Precision]]:
    """Each chosen format with each of the precisions that it has.

    Raises:
        UnknownNameError: an unknown format or precision.
        SettingError: a format that was named has none of the precisions.
    """
    for each in precisions:
        if each not in EXPORTED_PRECISIONS:
            raise UnknownNameError("precision", each, list(EXPORTED_PRECISIONS))
    pairs = []
    for row in choose_formats(formats):
        own = [each for each in dict.fromkeys(precisions) if each in row.precisions]
        if not own and row.name in formats:
            raise SettingError(
                f"--format {row.name} has the precisions {', '.join(row.precisions)}, but "
                f"--precision names {', '.join(precisions)}; add --precision {row.precisions[0]}"
            )
        pairs += [(row, each) for each in own]
    if not pairs:
        raise SettingError(f"no format named has the precision {', '.join(precisions)}")
    return pairs


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Writes artifacts of one checkpoint into one folder."""

    out: Path
    checkpoint: Path
    record: Checkpoint
    model: nn.Module
    trusted: str | None
    images: NDArray[np.float32] | None
    drawn: Calibration | None
    measured: NDArray[np.float32] | None
    isas: tuple[Isa, ...] | None
    timeout_s: float

    def is_current(self, manifest: Manifest, row: Format, precision: Precision) -> bool:
        """Whether the manifest records what would be written now, and it is there, undamaged."""
        wanted = (row.versions(), self._drawn(precision), manifest.checkpoint_id)
        for old in manifest.artifacts:
            if (old.format, old.precision) != (row.name, precision):
                continue
            if (old.versions, old.calibration, old.checkpoint_id) != wanted:
                return False
            if old.asked_isas != self._asked_isas(precision):
                return False
            try:
                check_artifact(self.out / old.path, old)
            except ArtifactError:
                return False
            return True
        return False

    def write(self, row: Format, precision: Precision) -> Artifact:
        """Publish one artifact. Killed before its record is in the manifest, it is a file that the
        manifest does not record, or records with another checksum: the next export writes it again.

        Raises:
            FailedRun: it cannot be written.
            OutputError: no place to write.
        """
        name = self.checkpoint.resolve().name
        path = self.out / f"{name}{'' if precision == 'fp32' else f'.{precision}'}{row.suffix}"
        with scratch_folder(self.out) as scratch:
            temporary = scratch / path.name
            written = self._call_exporter(row, precision, temporary, path)
            sha256, expected = sha256_of(temporary), written.expected_error
            artifact = Artifact(
                format=row.name,
                precision=precision,
                path=path.name,
                size_bytes=size_of(temporary),
                sha256=sha256,
                checkpoint_sha256=self.record.id.weights_sha256,
                spec_sha256=self.record.id.spec_sha256,
                input_shape=self.record.input.shape,
                classes=self.record.classes,
                opset=written.opset,
                batch_sizes=written.batch_sizes,
                calibration=self._drawn(precision),
                isas=written.isas,
                asked_isas=self._asked_isas(precision),
                expected_error=None if expected is None else replace(expected, sha256=sha256),
                versions=row.versions(),
            )
            publish(temporary, path)
        return artifact

    def _asked_isas(self, precision: Precision) -> tuple[Isa, ...] | None:
        return self.isas if precision in ("int8", "int8-dynamic") else None

    def _drawn(self, precision: Precision) -> Calibration | None:
        return self.drawn if precision == "int8" else None

    def _call_exporter(
        self, row: Format, precision: Precision, temporary: Path, path: Path
    ) -> Written:
        """Write `temporary`, which is to become `path`."""
        exporter = load_exporter(row)
        shape = self.record.input.shape
        images = self.images if precision == "int8" and self.images is not None else None
        calibration = np.empty((0, *shape), np.float32) if images is None else images
        try:
            if not row.usual:
                return export_apart(
                    row,
                    precision=precision,
                    checkpoint=self.checkpoint,
                    checkpoint_id=self.record.id,
                    model=self.trusted,
                    path=temporary,
                    calibration=calibration,
                    isas=self.isas,
                    measured=self.measured,
                    timeout_s=self.timeout_s,
                )
            example = example_input(shape, batch_size=2)
            return exporter.export(
                Request(
                    model=exportable(self.model, example),
                    example=example,
                    path=temporary,
                    precision=precision,
                    calibration=calibration,
                    isas=self.isas,
                    measured=self.measured,
                )
            )
        except OSError as error:
            raise _not_writable(path, error) from error
        except Exception as error:
            if shutil.disk_usage(path.parent).free < _LOW_DISK_BYTES:
                raise _not_writable(path, error) from error
            if isinstance(error, ToolkitError):
                raise
            raise Crashed(
                cannot_export(row.name, error), stderr_tail=traceback.format_exc()
            ) from error


def _draw_if_there(settings: CalibrationSettings, record: Checkpoint) -> NDArray[np.float32] | None:
    """Training images to measure the expected error on, of formats that need none otherwise."""
    count = min(settings.images, MEASURED_IMAGES)
    try:
        return draw(replace(settings, images=count), record)[0]
    except DatasetError:
        return None


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
    order = {name: place for place, name in enumerate(known_formats())}
    precisions = list(EXPORTED_PRECISIONS)
    artifacts = sorted(
        (*kept, artifact),
        key=lambda item: (
            order.get(item.format, len(order)),  # last: those of a package that is gone
            precisions.index(item.precision),
        ),
    )
    return replace(manifest, artifacts=tuple(artifacts))
