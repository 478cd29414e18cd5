"""Export: checkpoint → artifacts, each with its record in `manifest.json`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.artifacts.calibration import CalibrationSettings, draw_for
from toolkit.artifacts.cards.card import write_card
from toolkit.artifacts.embedded import refuse_float_samples
from toolkit.artifacts.exported import Export, FailedExport
from toolkit.artifacts.formats import (
    Format,
    choose_formats,
    known_formats,
)
from toolkit.artifacts.manifest import (
    MANIFEST,
    SIGNATURE,
    read_manifest,
    relative_to,
    write_manifest,
)
from toolkit.artifacts.side_by_side import Pair, at_a_time, write_side_by_side
from toolkit.artifacts.signing import check_private_key, sign_folder
from toolkit.artifacts.writer import ArtifactWriter
from toolkit.checkpoints.denormals import warn_of_denormals
from toolkit.checkpoints.storage import load_model, read_checkpoint
from toolkit.errors import (
    ArtifactError,
    FailedRun,
    Interrupted,
    SettingError,
)
from toolkit.files import remove_file
from toolkit.files.locks import locked_folder
from toolkit.files.paths import StrPath, as_path, optional_path
from toolkit.names import ALL, known_names, known_precisions
from toolkit.report.labels import count_of, kind_of
from toolkit.report.progress import Progress, silent, tell_finished
from toolkit.schema import (
    EXPORTED_PRECISIONS,
    MANIFEST_SCHEMA_VERSION,
    TRAITS,
    Artifact,
    Checkpoint,
    Isa,
    Manifest,
    Precision,
)
from toolkit.settings import check_positive
from toolkit.trust_store.factories import trusted_factory

if TYPE_CHECKING:
    pass


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
    drawing = draw_for(settings, record, [each for _, each in pairs], progress)
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


class _Run:
    """An export at work: what is finished, and what is left."""

    def __init__(
        self, writer: ArtifactWriter, pairs: Sequence[Pair], manifest: Manifest, progress: Progress
    ) -> None:
        self.writer = writer
        self.pairs = pairs
        self.manifest = manifest
        self.progress = progress
        self.left = list(pairs)
        self.outcomes: dict[Pair, Artifact | FailedRun] = {}

    def write_all(self, *, lost: FailedRun | None, force: bool) -> None:
        """Write the artifacts that are missing or outdated, each with its record and card. Those
        that need calibration images fail with `lost` if it is set."""
        out, record = self.writer.out, self.writer.record
        for pair in self.pairs:
            if lost is not None and TRAITS[pair[1]].calibrated:
                self._finish(pair, lost, 0.0)
            elif not force and self.writer.is_current(self.manifest, *pair):
                self._finish(pair, None, 0.0)
        most = at_a_time(self.writer.weights_bytes)
        with closing(write_side_by_side(self.writer, tuple(self.left), most=most)) as finished:
            for pair, outcome, seconds in finished:
                if isinstance(outcome, Artifact):
                    self.manifest = _with_artifact(self.manifest, outcome)
                    write_manifest(out, self.manifest)
                    write_card(out, outcome, record)
                self._finish(pair, outcome, seconds)
        for each in self.manifest.artifacts:
            write_card(out, each, record)

    def _finish(self, pair: Pair, outcome: Artifact | FailedRun | None, seconds: float) -> None:
        """Note and tell the outcome of an artifact; None is up to date."""
        said = "written" if isinstance(outcome, Artifact) else str(outcome or "up to date")
        if outcome is not None:
            self.outcomes[pair] = outcome
        self.left.remove(pair)
        label = f"{pair[0].name} {kind_of(pair[1], uint8=self.writer.embed)}"
        tell_finished(self.progress, label, said, seconds)
        self.progress("export", len(self.pairs) - len(self.left), len(self.pairs), label)

    def result(self) -> Export:
        """Return what is finished so far, in the order in which it was asked for."""
        in_order = [(pair, self.outcomes[pair]) for pair in self.pairs if pair in self.outcomes]
        return Export(
            folder=self.writer.out,
            checkpoint=self.writer.checkpoint,
            manifest=self.manifest,
            written=tuple(each.path for _, each in in_order if isinstance(each, Artifact)),
            failures=tuple(
                FailedExport(
                    format=row.name,
                    precision=precision,
                    failure=each,
                    embeds_preprocessing=self.writer.embed,
                )
                for (row, precision), each in in_order
                if isinstance(each, FailedRun)
            ),
        )


def _write_all(
    writer: ArtifactWriter,
    pairs: Sequence[Pair],
    *,
    lost: FailedRun | None,
    force: bool,
    sign: Path | None,
    progress: Progress,
) -> Export:
    """Write the artifacts into the folder, which is locked, and sign it; see `_Run.write_all`.

    Raises:
        Interrupted: Ctrl-C after the first artifact.
    """
    out = writer.out
    manifest = _open_manifest(out, writer.checkpoint, writer.record, force=force)
    if sign is not None:
        remove_file(out / SIGNATURE)  # a new one follows
    if (out / MANIFEST).exists() and manifest.artifacts:
        write_manifest(out, manifest)  # the checkpoint's folder may have moved
    run = _Run(writer, pairs, manifest, progress)
    progress("export", 0, len(pairs))
    try:
        run.write_all(lost=lost, force=force)
    except KeyboardInterrupt as stop:
        if len(run.left) == len(pairs):
            raise
        advice = _advice(pairs, run.left, out, force=force)
        raise Interrupted(replace(run.result(), interrupted=True), advice) from stop
    progress("export", len(pairs), len(pairs))
    signed_by = None if sign is None else sign_folder(out, sign)
    return replace(run.result(), signed_by=signed_by)


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
