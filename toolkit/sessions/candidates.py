"""Candidates: pairs of artifact and runtime, with settings.

In: artifacts, a checkpoint, names of runtimes. Out: the list of candidates for verify and bench.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.artifacts.manifest import MANIFEST, StoredArtifact, find_artifacts
from toolkit.artifacts.programs import programs_of
from toolkit.checkpoints.denormals import warn_of_denormals
from toolkit.checkpoints.storage import WEIGHTS, read_checkpoint
from toolkit.errors import ArtifactError, SettingError
from toolkit.report.labels import count_of, kind_of
from toolkit.schema import EAGER as EAGER
from toolkit.schema import NO_OP as NO_OP
from toolkit.schema import (
    TRAITS,
    Artifact,
    Attestation,
    Checkpoint,
    Device,
    InputSpec,
    Precision,
    Settings,
)
from toolkit.sessions.runtimes import (
    ALL,
    CHECKPOINT_FORMAT,
    Runtime,
    Source,
    find_runtime,
    known_runtimes,
)
from toolkit.trust_store.factories import trusted_factory
from toolkit.trust_store.store import require_trust


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One artifact in one runtime with fixed settings; `input` says how pixels become input."""

    runtime: Runtime
    source: Source
    settings: Settings
    input: InputSpec

    @property
    def depends_on_the_batch(self) -> bool:
        """Return whether the logits of an image change slightly with the other images in its
        batch."""
        return TRAITS[self.source.artifact.precision].depends_on_the_batch

    @property
    def label(self) -> str:
        """A short name for progress and messages."""
        artifact = self.source.artifact
        kind = kind_of(artifact.precision, uint8=artifact.embeds_preprocessing)
        return f"{self.runtime.name} {kind}"

    def difference(self, found: Attestation) -> str | None:
        """Say how an attested session differs from what was requested; None if it does not."""
        settings = self.settings
        threads = 1 if self.runtime.one_thread else settings.threads
        if self.runtime.own_threads:
            threads = found.threads
        precision = self.source.artifact.precision
        wanted = _described(threads, precision, settings.device, settings.streams)
        runs = _described(found.threads, found.precision, found.device, found.streams)
        return None if runs == wanted else f"requested {wanted}, but the session runs {runs}"


def _described(threads: int, precision: str, device: str, streams: int) -> str:
    several = f" in {streams} streams" if streams > 1 else ""
    return f"{count_of(threads, 'thread')}, {precision} on {device}{several}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of a run of verify or bench: one checkpoint and the artifacts exported from it.

    `model` is the model factory that may be called, None for the reference CNN. With `trust`,
    artifacts that are programs may run without being in the trust store.
    """

    folder: Path
    checkpoint: Checkpoint
    artifacts: tuple[StoredArtifact, ...]
    model: str | None
    trust: bool = False


def find_subject(
    paths: Sequence[Path], *, checkpoint: Path | None, model: str | None, trust: bool = False
) -> Subject:
    """Read the artifacts and their checkpoint. Nothing in them runs.

    Args:
        paths: Export folders or artifact files.
        checkpoint: Needed only if the folder named in the manifest has moved.
        model: The model factory that the user names.
        trust: Whether the user trusts all programs among them.

    Raises:
        NotTrustedError: The checkpoint names a model factory that is not trusted.
        ArtifactError: Missing or damaged artifacts, or artifacts of another checkpoint.
        CheckpointError: The checkpoint is missing or damaged.
    """
    artifacts = find_artifacts(paths)
    folder = checkpoint or artifacts[0].checkpoint
    if not folder.is_dir() and checkpoint is None:
        raise ArtifactError(
            f"{artifacts[0].path.parent / MANIFEST} names the checkpoint folder {folder}, which "
            "does not exist; give its new location with --checkpoint"
        )
    return subject_of(folder, artifacts, model=model, trust=trust)


def subject_of(
    folder: Path,
    artifacts: Sequence[StoredArtifact],
    *,
    model: str | None,
    trust: bool = False,
    record: Checkpoint | None = None,
) -> Subject:
    """Return the checkpoint in `folder` with artifacts exported from it, if any.

    `record` is the checkpoint's record, if this process has already read and checked it.

    Raises:
        NotTrustedError: The checkpoint names a model factory that is not trusted.
        ArtifactError: Artifacts of another checkpoint.
        CheckpointError: The checkpoint is missing or damaged.
    """
    record = record or read_checkpoint(folder)
    for stored in artifacts:
        if stored.record.checkpoint_id != record.id:
            raise ArtifactError(
                f"{stored.path} was exported from checkpoint {stored.record.checkpoint_id}, "
                f"but {folder} is {record.id}; "
                f"export it again with toolkit export {folder} --out "
                f"{stored.path.parent}, or name its checkpoint with --checkpoint"
            )
    factory = trusted_factory(record.model, model=model, trust=trust, what=str(folder))
    warn_of_denormals(record, folder)
    return Subject(
        folder=folder,
        checkpoint=record,
        artifacts=tuple(artifacts),
        model=factory,
        trust=trust,
    )


def choose_runtimes(
    names: Sequence[str], artifacts: Iterable[tuple[str, Precision]], device: Device
) -> list[Runtime]:
    """Return the named runtimes without duplicates. `all` means all except `no-op` that run on
    `device` and load the checkpoint or one of the `artifacts`. No names means those that are
    installed, run here and are used by default.

    If none of them loads a format and precision among `artifacts`, runtimes that would load it are
    added, so that it gets a row instead of passing without a comparison. This does not apply to
    named runtimes.

    Raises:
        UnknownNameError: An unknown runtime.
    """
    checkpoint: tuple[str, Precision] = (CHECKPOINT_FORMAT, "fp32")
    kinds = [checkpoint, *artifacts]
    real = [row for row in known_runtimes().values() if row.name != NO_OP]

    def loading(rows: Sequence[Runtime]) -> list[str]:
        lost = [kind for kind in kinds if not any(row.loads(*kind) for row in rows)]
        needed = [row for row in real if any(row.loads(*kind) for kind in lost)]
        return [row.name for row in (*rows, *(row for row in needed if row not in rows))]

    usual = [row for row in real if row.version() and row.runs_on(device) and not row.opt_in]
    fitting = [
        row for row in real if device in row.devices and any(row.loads(*kind) for kind in kinds)
    ]
    if not names:
        return [find_runtime(name) for name in loading(usual)]
    spread = [each for name in names for each in (loading(fitting) if name == ALL else [name])]
    return [find_runtime(name) for name in dict.fromkeys(spread)]


def find_candidates(
    subject: Subject,
    runtimes: Sequence[str],
    settings: Settings,
    *,
    lost: Collection[str] = (),
    own: bool = False,
) -> list[Candidate]:
    """Return the candidates of a subject: each chosen runtime with each artifact that it loads.

    Artifacts with the same bytes are one candidate, wherever they are. `lost` names formats that
    could not be exported: a runtime named for one of them may have no artifact. `own` says that
    this process has written the artifacts, so they need no trust.

    Raises:
        UnknownNameError: An unknown runtime.
        SettingError: A named runtime loads none of the artifacts.
        ArtifactError: No runtime loads an artifact, so it would pass without a comparison.
        NotTrustedError: One of them is a program that the user has not trusted.
    """
    _refuse_unloadable(subject, named=bool(runtimes) and ALL not in runtimes)
    candidates: list[Candidate] = []
    kinds = [(item.record.format, item.record.precision) for item in subject.artifacts]
    for row in choose_runtimes(runtimes, kinds, settings.device):
        sources = list(_sources(row, subject))
        if not sources and runtimes and not set(lost).intersection(row.formats):
            given = ", ".join(sorted({" ".join(kind) for kind in kinds}))
            raise SettingError(
                f"runtime {row.name} loads {row.what_it_loads()}, but the artifacts given are "
                f"{given}; export one with toolkit export --format {row.formats[0]}"
            )
        candidates += [_candidate(row, source, settings, subject) for source in sources]
    if not own:
        sources = [each.source for each in candidates]  # a checkpoint's factory is checked already
        artifacts = [each for each in sources if each.artifact.format != CHECKPOINT_FORMAT]
        opened = {(each.path, each.artifact.format): each.artifact for each in artifacts}
        programs = programs_of((path, artifact) for (path, _), artifact in opened.items())
        folders = dict.fromkeys(str(Path(each.path).parent) for each in programs)
        require_trust(programs, given=subject.trust, what=list(folders))
    return candidates


def _refuse_unloadable(subject: Subject, *, named: bool) -> None:
    """Raise ArtifactError if no runtime that this toolkit knows loads one of the artifacts. With
    `named` runtimes, the user has chosen which artifacts to leave out."""
    for stored in subject.artifacts:
        kind = stored.record.format, stored.record.precision
        if kind[0] == CHECKPOINT_FORMAT:
            raise ArtifactError(
                f"{stored.path} is recorded as {CHECKPOINT_FORMAT!r}, expected the format of an "
                "exported file; export it again with toolkit export --force"
            )
        if not named and not any(row.loads(*kind) for row in known_runtimes().values()):
            raise ArtifactError(
                f"{stored.path} has format {kind[0]} in {kind[1]}, which no runtime here loads; "
                "install the package that adds it, or name the other artifacts of the folder"
            )


def checkpoint_candidate(
    subject: Subject,
    runtime: str,
    settings: Settings,
    *,
    precision: Precision = "fp32",
    variant: str | None = None,
) -> Candidate:
    """Return the checkpoint itself in a runtime that needs no artifact (`eager`, `no-op`), or in a
    variant of eager PyTorch, see `toolkit.sessions.runtimes.Source`."""
    source = replace(_checkpoint_source(subject, precision), variant=variant)
    return _candidate(find_runtime(runtime), source, settings, subject)


def _candidate(row: Runtime, source: Source, settings: Settings, subject: Subject) -> Candidate:
    return Candidate(runtime=row, source=source, settings=settings, input=subject.checkpoint.input)


def _sources(row: Runtime, subject: Subject) -> Iterable[Source]:
    if CHECKPOINT_FORMAT in row.formats:
        yield _checkpoint_source(subject, "fp32")
    distinct: dict[tuple[str, str, str], StoredArtifact] = {}
    for stored in subject.artifacts:
        record = stored.record
        distinct.setdefault((record.format, record.precision, record.sha256), stored)
    for stored in distinct.values():
        if row.loads(stored.record.format, stored.record.precision):
            yield Source(path=stored.path, artifact=stored.record, model=subject.model)


def _checkpoint_source(subject: Subject, precision: Precision) -> Source:
    checkpoint = subject.checkpoint
    artifact = Artifact(
        format=CHECKPOINT_FORMAT,
        precision=precision,
        path=str(subject.folder),
        size_bytes=(subject.folder / WEIGHTS).stat().st_size,
        sha256=checkpoint.sha256,
        checkpoint_sha256=checkpoint.id.weights_sha256,
        spec_sha256=checkpoint.id.spec_sha256,
        input_shape=checkpoint.input.shape,
        classes=checkpoint.classes,
    )
    return Source(path=subject.folder, artifact=artifact, model=subject.model)
