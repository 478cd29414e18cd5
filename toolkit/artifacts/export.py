"""Export: checkpoint → artifacts, each with its record in `manifest.json`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from toolkit.artifacts.calibration import CalibrationSettings, draw
from toolkit.artifacts.cards.card import write_card
from toolkit.artifacts.embedded import refuse_float_samples
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
from toolkit.checkpoints.denormals import warn_of_denormals
from toolkit.checkpoints.storage import load_model, read_checkpoint
from toolkit.errors import (
    ArtifactError,
    DatasetError,
    FailedRun,
    Interrupted,
    SettingError,
    Unsupported,
    printable,
)
from toolkit.files import remove_file
from toolkit.files.locks import locked_folder
from toolkit.files.paths import StrPath, as_path, optional_path
from toolkit.names import ALL, known_names, known_precisions
from toolkit.report.artifacts import artifact_cells
from toolkit.report.frames import flat, frame_of_rows
from toolkit.report.html import html_table
from toolkit.report.labels import count_of, kind_of
from toolkit.report.progress import Progress, silent, tell_finished
from toolkit.report.table import aligned
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

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class FailedExport:
    """A format and precision in which this model could not be written, and why."""

    format: str
    precision: Precision
    failure: FailedRun
    embeds_preprocessing: bool = False


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of an export: the manifest in `folder`, the paths that were written now, and the
    failures. Other artifacts already existed and matched. `signed_by` is the fingerprint of the key
    that signed the folder now. `interrupted` says that some artifacts are missing, because it was
    stopped before its end."""

    folder: Path
    checkpoint: Path
    manifest: Manifest
    written: tuple[str, ...]
    failures: tuple[FailedExport, ...]
    signed_by: str | None = None
    interrupted: bool = False

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per artifact.

        Raises:
            SettingError: pandas is not installed.
        """
        written = [{"written": each.path in self.written} for each in self.artifacts]
        return frame_of_rows(
            {**flat(each), **more} for each, more in zip(self.artifacts, written, strict=True)
        )

    def _repr_html_(self) -> str:
        return html_table(*self._cells(), notes=self._notes())

    def __str__(self) -> str:
        headings, rows, numeric = self._cells()
        return printable("\n".join([aligned(headings, rows, numeric=numeric), *self._notes()]))

    def _cells(self) -> tuple[list[str], list[list[str]], list[bool]]:
        return artifact_cells(self.folder, self.artifacts, written=self.written)

    def _notes(self) -> list[str]:
        card = "How to feed each file is in the card next to it: FILE.md"
        return [
            *([card] if self.artifacts else []),
            *([] if self.signed_by is None else [f"Signed by the key {self.signed_by}."]),
            *(
                f"Warning: {_name(each)}: {said}"
                for each in self.artifacts
                for said in each.warnings
            ),
            *(f"{_name(each)}: {each.failure}" for each in self.failures),
            *(["Interrupted: some artifacts are missing."] if self.interrupted else []),
        ]

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


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """Raw training images for an export; each is None if no precision needs it.

    int8 ranges are measured on `images`, which `record` describes, and the expected error on
    `measured`. `failure` is why there are none.
    """

    images: NDArray[Any] | None = None
    record: Calibration | None = None
    measured: NDArray[Any] | None = None
    failure: FailedRun | None = None


def export(
    checkpoint: StrPath,
    *,
    out: StrPath,
    formats: str | Sequence[str] = (),
    precisions: str | Sequence[str] = ("fp32",),
    calibration: CalibrationSettings | None = None,
    isas: Sequence[Isa] | None = None,
    embed_preprocessing: bool = False,
    force: bool = False,
    model: str | None = None,
    trust: bool = False,
    record: Checkpoint | None = None,
    sign: StrPath | None = None,
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
        embed_preprocessing: Put the scaling, the colour order and the normalisation into the graph.
            The artifacts then take uint8 images, resized and cropped, and have `uint8-input` in
            their names; those with float32 input can be in the same folder.
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
        SettingError: A named format supports none of the precisions, the key cannot sign, or
            `embed_preprocessing` with samples that are not uint8.
        DatasetError: Only int8 is requested, and the training images are missing or do not fit.
        CheckpointError: The checkpoint is missing or damaged.
        NotTrustedError: Its model factory is not trusted.
        ArtifactError: `out` contains the artifacts of another checkpoint.
        OutputError: Not writable, the disk is full, or another command writes to `out`; existing
            files are unchanged.
        Interrupted: Ctrl-C after the first artifact; it carries the export so far.
    """
    checkpoint, out = as_path(checkpoint, "checkpoint"), as_path(out, "out")
    sign = optional_path(sign, "sign")
    pairs = choose_artifacts(formats, precisions)
    check_positive("--timeout", timeout_s)
    if sign is not None:
        check_private_key(sign, out)
    record = record or read_checkpoint(checkpoint)
    model = trusted_factory(record.model, model=model, trust=trust, what=str(checkpoint))
    if embed_preprocessing:
        refuse_float_samples(record)
    module, record = load_model(checkpoint, trusted=model, record=record)
    warn_of_denormals(record, checkpoint)
    settings = calibration or CalibrationSettings()
    drawing = _draw(settings, record, [each for _, each in pairs], progress)
    writer = ArtifactWriter(
        out=out,
        checkpoint=checkpoint,
        record=record,
        model=module,
        trusted=model,
        images=drawing.images,
        drawn=drawing.record,
        measured=drawing.measured,
        isas=None if isas is None else tuple(sorted(set(isas))),
        timeout_s=timeout_s,
        embed=embed_preprocessing,
    )
    with locked_folder(out):
        return _write_all(
            writer, pairs, lost=drawing.failure, force=force, sign=sign, progress=progress
        )


def _write_all(
    writer: ArtifactWriter,
    pairs: Sequence[tuple[Format, Precision]],
    *,
    lost: FailedRun | None,
    force: bool,
    sign: Path | None,
    progress: Progress,
) -> Export:
    """Write the artifacts that are missing or outdated, each with its record. Those that need
    calibration images fail with `lost` if it is set."""
    out, checkpoint = writer.out, writer.checkpoint
    manifest = _open_manifest(out, checkpoint, writer.record, force=force)
    if sign is not None:
        remove_file(out / SIGNATURE)  # a new one follows
    if (out / MANIFEST).exists() and manifest.artifacts:
        write_manifest(out, manifest)  # the checkpoint's folder may have moved
    outcomes: dict[Pair, Artifact | FailedRun] = {}

    def so_far() -> Export:
        in_order = [(pair, outcomes[pair]) for pair in pairs if pair in outcomes]
        return Export(
            folder=out,
            checkpoint=checkpoint,
            manifest=manifest,
            written=tuple(each.path for _, each in in_order if isinstance(each, Artifact)),
            failures=tuple(
                FailedExport(
                    format=row.name,
                    precision=precision,
                    failure=each,
                    embeds_preprocessing=writer.embed,
                )
                for (row, precision), each in in_order
                if isinstance(each, FailedRun)
            ),
        )

    def tell(pair: Pair, outcome: str, seconds: float) -> None:
        label = f"{pair[0].name} {kind_of(pair[1], uint8=writer.embed)}"
        tell_finished(progress, label, outcome, seconds)
        progress("export", len(pairs) - len(rest), len(pairs), label)

    rest = list(pairs)
    progress("export", 0, len(pairs))
    try:
        for pair in pairs:
            if lost is not None and TRAITS[pair[1]].calibrated:
                outcomes[pair] = lost
            elif force or not writer.is_current(manifest, *pair):
                continue
            rest.remove(pair)
            tell(pair, str(outcomes.get(pair, "up to date")), 0.0)
        most = at_a_time(writer.weights_bytes)
        with closing(write_side_by_side(writer, tuple(rest), most=most)) as finished:
            for pair, outcome, seconds in finished:
                outcomes[pair] = outcome
                rest.remove(pair)
                if isinstance(outcome, Artifact):
                    manifest = _with_artifact(manifest, outcome)
                    write_manifest(out, manifest)
                    write_card(out, outcome, writer.record)
                said = "written" if isinstance(outcome, Artifact) else str(outcome)
                tell(pair, said, seconds)
        for each in manifest.artifacts:
            write_card(out, each, writer.record)
    except KeyboardInterrupt as stop:
        if len(rest) == len(pairs):
            raise
        advice = _advice(pairs, rest, out, force=force)
        raise Interrupted(replace(so_far(), interrupted=True), advice) from stop
    progress("export", len(pairs), len(pairs))
    signed_by = None if sign is None else sign_folder(out, sign)
    return replace(so_far(), signed_by=signed_by)


def _name(item: Artifact | FailedExport) -> str:
    return f"{item.format} {kind_of(item.precision, uint8=item.embeds_preprocessing)}"


def _advice(pairs: Sequence[Pair], rest: Sequence[Pair], out: Path, *, force: bool) -> str:
    """Return what an interrupted export has written, and what happens next."""
    done, left = len(pairs) - len(rest), ", ".join(f"{row.name} {each}" for row, each in rest)
    again = "without --force, the same command" if force else "the same command"
    are = "is" if done == 1 else "are"
    return f"{done} of {count_of(len(pairs), 'artifact')} {are} finished, in {out}; {again} " + (
        f"goes on with {left}" if left else "has nothing left to write"
    )


def choose_artifacts(
    formats: str | Sequence[str], precisions: str | Sequence[str]
) -> list[tuple[Format, Precision]]:
    """Return each chosen format with each of the precisions that it supports.

    Raises:
        UnknownNameError: An unknown format or precision.
        SettingError: A named format supports none of the precisions.
    """
    chosen = known_precisions(precisions)
    all_of_them = ALL in known_names("format", formats, [*known_formats(), ALL])
    pairs = []
    for row in choose_formats(formats):
        own = [each for each in chosen if each in row.precisions]
        if not own and formats and not all_of_them:
            raise SettingError(
                f"--format {row.name} supports the precisions {', '.join(row.precisions)}, but "
                f"--precision names {', '.join(chosen)}; add --precision {row.precisions[0]}"
            )
        pairs += [(row, each) for each in own]
    if not pairs:
        raise SettingError(f"no named format supports the precision {', '.join(chosen)}")
    return pairs


def _draw(
    settings: CalibrationSettings,
    record: Checkpoint,
    precisions: Sequence[Precision],
    progress: Progress,
) -> _Drawing:
    """Draw the training images that the precisions need.

    Raises:
        DatasetError: All precisions need calibration images, but they are missing or unsuitable.
    """
    calibrated = [TRAITS[each].calibrated for each in precisions]
    if not any(calibrated) and not any(TRAITS[each].quantised for each in precisions):
        return _Drawing()
    if any(calibrated):
        try:
            images, drawn = draw(settings, record, progress)
        except DatasetError as error:
            if all(calibrated):
                raise
            reason = f"int8 ranges are measured on training images, but: {error}"
            return _Drawing(failure=Unsupported(reason))
        return _Drawing(images=images, record=drawn, measured=images[:MEASURED_IMAGES])
    try:
        few = replace(settings, images=min(settings.images, MEASURED_IMAGES))
        return _Drawing(measured=draw(few, record, progress, say_few=False)[0])
    except DatasetError:  # the export works without a measured error
        return _Drawing()


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
    kept = [old for old in manifest.artifacts if old.key != artifact.key]
    order = {name: place for place, name in enumerate(known_formats())}
    precisions = list(EXPORTED_PRECISIONS)
    artifacts = sorted(
        (*kept, artifact),
        # Formats of packages that are no longer installed come last.
        key=lambda item: (
            order.get(item.format, len(order)),
            precisions.index(item.precision),
            item.embeds_preprocessing,
        ),
    )
    return replace(manifest, artifacts=tuple(artifacts))
