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
    FORMATS,
    Format,
    Request,
    Written,
    choose_formats,
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
    """A format and precision in which this model could not be written, and why."""

    format: str
    precision: Precision
    failure: FailedRun


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of an export: the manifest in `folder`, the paths that were written now, and the
    failures. Other artifacts already existed and matched."""

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
    """Write the artifacts of a checkpoint, one per format and precision, and their `manifest.json`.

    Args:
        checkpoint: Checkpoint folder.
        out: Folder for the artifacts.
        formats: Names from `toolkit.artifacts.formats.FORMATS`, or `all`; none means the default
            formats: TorchScript, ONNX and pt2.
        precisions: Precisions to export; each format uses those that it supports.
        calibration: Training images used to measure int8 ranges; None is 500 of MNIST's.
        isas: Instruction sets on which int8 arithmetic must be exact; None is all.
        force: Export again even if the artifact exists and matches, and replace the artifacts of
            another checkpoint.
        model: The model factory to trust, if it is not part of the toolkit.
        timeout_s: A converter that takes longer is stopped.
        progress: Receives the progress of each artifact.

    Returns:
        The manifest, and what was written. A failure does not stop the other formats; it is listed
        in `failures`.

    Raises:
        UnknownNameError: An unknown format.
        SettingError: A named format supports none of the precisions.
        DatasetError: int8 is requested, and the training images are missing or do not fit.
        CheckpointError: The checkpoint is missing or damaged, or its factory is not trusted.
        ArtifactError: `out` contains the artifacts of another checkpoint.
        OutputError: Not writable, or the disk is full; existing files are unchanged.
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
        write_manifest(out, manifest)  # the checkpoint's folder may have moved
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
    """Return each chosen format with each of the precisions that it supports.

    Raises:
        UnknownNameError: An unknown format or precision.
        SettingError: A named format supports none of the precisions.
    """
    for each in precisions:
        if each not in EXPORTED_PRECISIONS:
            raise UnknownNameError("precision", each, list(EXPORTED_PRECISIONS))
    pairs = []
    for row in choose_formats(formats):
        own = [each for each in dict.fromkeys(precisions) if each in row.precisions]
        if not own and row.name in formats:
            raise SettingError(
                f"--format {row.name} supports the precisions {', '.join(row.precisions)}, but "
                f"--precision names {', '.join(precisions)}; add --precision {row.precisions[0]}"
            )
        pairs += [(row, each) for each in own]
    if not pairs:
        raise SettingError(f"no named format supports the precision {', '.join(precisions)}")
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
        """Return whether the manifest records the same export, and the file exists and is
        undamaged."""
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
        """Publish one artifact. If the process is killed before the record is in the manifest, the
        manifest does not record the file, or records another checksum; the next export then writes
        it again.

        Raises:
            FailedRun: It cannot be written.
            OutputError: The location is not writable, or the disk is full.
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
        """Write `temporary`, which is later renamed to `path`."""
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
    """Return training images to measure the expected error on, for formats that need none
    otherwise."""
    count = min(settings.images, MEASURED_IMAGES)
    try:
        return draw(replace(settings, images=count), record)[0]
    except DatasetError:
        return None


def _open_manifest(out: Path, checkpoint: Path, record: Checkpoint, *, force: bool) -> Manifest:
    """Return the manifest to extend: the one in `out`, or a new one.

    Artifacts of an earlier checkpoint in the same checkpoint folder are outdated and are removed
    from the record. Those of another checkpoint are kept unless `force` is set.
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
            f"{out} contains artifacts of checkpoint {old.checkpoint}, {old.checkpoint_id}, not "
            f"of {checkpoint}, {record.id}; choose another folder with --out, or replace them "
            "with --force"
        )
    return fresh


def _not_writable(path: Path, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"cannot write {path}: {reason}; free disk space, or choose another folder with --out"
    )


def _with_artifact(manifest: Manifest, artifact: Artifact) -> Manifest:
    kept = [
        old
        for old in manifest.artifacts
        if (old.format, old.precision) != (artifact.format, artifact.precision)
    ]
    order = list(FORMATS)
    precisions = list(EXPORTED_PRECISIONS)
    artifacts = sorted(
        (*kept, artifact),
        key=lambda item: (order.index(item.format), precisions.index(item.precision)),
    )
    return replace(manifest, artifacts=tuple(artifacts))
