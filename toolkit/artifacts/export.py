"""Export: checkpoint → artifacts, each with its record in `manifest.json`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.calibration import CalibrationSettings, draw
from toolkit.artifacts.cards.card import write_card
from toolkit.artifacts.formats import (
    Format,
    choose_formats,
    known_formats,
)
from toolkit.artifacts.manifest import (
    MANIFEST,
    SIGNATURE,
    StoredArtifact,
    read_manifest,
    relative_to,
    write_manifest,
)
from toolkit.artifacts.rounding.number_formats import MEASURED_IMAGES
from toolkit.artifacts.side_by_side import Pair, at_a_time, write_side_by_side
from toolkit.artifacts.signing import check_private_key, sign_folder
from toolkit.artifacts.writer import ArtifactWriter
from toolkit.checkpoints.storage import load_model, read_checkpoint
from toolkit.errors import (
    ArtifactError,
    DatasetError,
    FailedRun,
    SettingError,
    UnknownNameError,
)
from toolkit.files import remove_file
from toolkit.files.locks import locked_folder
from toolkit.report.progress import Progress, silent
from toolkit.schema import (
    EXPORTED_PRECISIONS,
    MANIFEST_SCHEMA_VERSION,
    TRAITS,
    Artifact,
    Calibration,
    Checkpoint,
    Isa,
    Manifest,
    Precision,
)
from toolkit.settings import check_positive
from toolkit.trust_store.factories import trusted_factory


@dataclass(frozen=True, kw_only=True)
class FailedExport:
    """A format and precision in which this model could not be written, and why."""

    format: str
    precision: Precision
    failure: FailedRun


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of an export: the manifest in `folder`, the paths that were written now, and the
    failures. Other artifacts already existed and matched. `signed_by` is the fingerprint of the key
    that signed the folder now."""

    folder: Path
    checkpoint: Path
    manifest: Manifest
    written: tuple[str, ...]
    failures: tuple[FailedExport, ...]
    signed_by: str | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The records of all artifacts in the folder."""
        return self.manifest.artifacts

    @property
    def stored(self) -> tuple[StoredArtifact, ...]:
        """The artifacts written by this export; their bytes need no second check."""
        return tuple(
            StoredArtifact(record=each, path=self.folder / each.path, checkpoint=self.checkpoint)
            for each in self.artifacts
            if each.path in self.written
        )


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
    trust: bool = False,
    record: Checkpoint | None = None,
    sign: Path | None = None,
    timeout_s: float = 600.0,
    progress: Progress = silent,
) -> Export:
    """Write the artifacts of a checkpoint, one per format and precision, and their `manifest.json`.

    Args:
        checkpoint: Checkpoint folder.
        out: Folder for the artifacts.
        formats: Names from `toolkit.artifacts.formats`, or `all`; none means the default formats:
            TorchScript, ONNX and pt2.
        precisions: Precisions to export; each format uses those that it supports.
        calibration: Training images used to measure int8 ranges; None is 500 of MNIST's.
        isas: Instruction sets on which int8 arithmetic must be exact; None is all.
        force: Export again even if the artifact exists and matches, and replace the artifacts of
            another checkpoint.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust any model factory that the checkpoint names.
        record: The checkpoint's record, if this process has already read and checked it.
        sign: A private key in PEM that signs all files in `out`; see `toolkit.artifacts.signing`.
        timeout_s: A converter that takes longer is stopped.
        progress: Receives the progress of each artifact.

    Returns:
        The manifest, and what was written. A failure does not stop the other formats; it is listed
        in `failures`.

    Raises:
        UnknownNameError: An unknown format.
        SettingError: A named format supports none of the precisions, or the key cannot sign.
        DatasetError: int8 is requested, and the training images are missing or do not fit.
        CheckpointError: The checkpoint is missing or damaged.
        NotTrustedError: Its model factory is not trusted.
        ArtifactError: `out` contains the artifacts of another checkpoint.
        OutputError: Not writable, the disk is full, or another command writes to `out`; existing
            files are unchanged.
    """
    pairs = choose_artifacts(formats, precisions)
    check_positive("--timeout", timeout_s)
    if sign is not None:
        check_private_key(sign, out)
    record = record or read_checkpoint(checkpoint)
    model = trusted_factory(record.model, model=model, trust=trust, what=str(checkpoint))
    module, record = load_model(checkpoint, trusted=model, record=record)
    settings = calibration or CalibrationSettings()
    images, drawn, measured = _draw(settings, record, [each for _, each in pairs])
    writer = ArtifactWriter(
        out=out,
        checkpoint=checkpoint,
        record=record,
        model=module,
        trusted=model,
        images=images,
        drawn=drawn,
        measured=measured,
        isas=None if isas is None else tuple(sorted(set(isas))),
        timeout_s=timeout_s,
    )
    with locked_folder(out):
        return _write_all(writer, pairs, force=force, sign=sign, progress=progress)


def _write_all(
    writer: ArtifactWriter,
    pairs: Sequence[tuple[Format, Precision]],
    *,
    force: bool,
    sign: Path | None,
    progress: Progress,
) -> Export:
    """Write the artifacts that are missing or outdated, each with its record."""
    out, checkpoint = writer.out, writer.checkpoint
    manifest = _open_manifest(out, checkpoint, writer.record, force=force)
    if sign is not None:
        remove_file(out / SIGNATURE)  # a new one follows
    if (out / MANIFEST).exists() and manifest.artifacts:
        write_manifest(out, manifest)  # the checkpoint's folder may have moved
    todo = [each for each in pairs if force or not writer.is_current(manifest, *each)]
    outcomes: dict[Pair, Artifact | FailedRun] = {}
    most = at_a_time(writer.weights_bytes)
    with closing(write_side_by_side(writer, todo, most=most)) as finished:
        progress("export", len(pairs) - len(todo), len(pairs))
        for pair, outcome in finished:
            outcomes[pair] = outcome
            if isinstance(outcome, Artifact):
                manifest = _with_artifact(manifest, outcome)
                write_manifest(out, manifest)
                write_card(out, outcome, writer.record)
            done = len(pairs) - len(todo) + len(outcomes)
            if done < len(pairs):
                progress("export", done, len(pairs), f"{pair[0].name} {pair[1]}")
    for each in manifest.artifacts:
        write_card(out, each, writer.record)
    progress("export", len(pairs), len(pairs))
    in_order = [(each, outcomes[each]) for each in todo]
    return Export(
        folder=out,
        checkpoint=checkpoint,
        manifest=manifest,
        written=tuple(each.path for _, each in in_order if isinstance(each, Artifact)),
        failures=tuple(
            FailedExport(format=row.name, precision=precision, failure=each)
            for (row, precision), each in in_order
            if isinstance(each, FailedRun)
        ),
        signed_by=None if sign is None else sign_folder(out, sign),
    )


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


def _draw(
    settings: CalibrationSettings, record: Checkpoint, precisions: Sequence[Precision]
) -> tuple[NDArray[np.float32] | None, Calibration | None, NDArray[np.float32] | None]:
    """Return the calibration images and their record, and the images to measure the expected error
    on; each is None if no precision needs it.

    Raises:
        DatasetError: Calibration images are needed, but missing or unsuitable.
    """
    if any(TRAITS[each].calibrated for each in precisions):
        images, drawn = draw(settings, record)
        return images, drawn, images[:MEASURED_IMAGES]
    if not any(TRAITS[each].quantised for each in precisions):
        return None, None, None
    try:
        few = replace(settings, images=min(settings.images, MEASURED_IMAGES))
        return None, None, draw(few, record)[0]
    except DatasetError:  # the export works without a measured error
        return None, None, None


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
        class_names=record.class_names,
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
        named = old.class_names == record.class_names  # the files contain the names
        return replace(fresh, artifacts=old.artifacts if named else ())
    if old.checkpoint != source and not force:
        raise ArtifactError(
            f"{out} contains artifacts of checkpoint {old.checkpoint}, {old.checkpoint_id}, not "
            f"of {checkpoint}, {record.id}; choose another folder with --out, or replace them "
            "with --force"
        )
    return fresh


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
        # Formats of packages that are no longer installed come last.
        key=lambda item: (
            order.get(item.format, len(order)),
            precisions.index(item.precision),
        ),
    )
    return replace(manifest, artifacts=tuple(artifacts))
