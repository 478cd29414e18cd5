"""Trust: export folders, artifacts or checkpoints → the programs in them, recorded as trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.artifacts.manifest import MANIFEST, find_artifacts
from toolkit.artifacts.programs import programs_of
from toolkit.checkpoints.storage import RECORD, read_checkpoint
from toolkit.errors import ArtifactError, CheckpointError, NotTrustedError
from toolkit.files.paths import Paths, as_paths
from toolkit.schema import Program
from toolkit.trust_store.factories import REFERENCE_FACTORY, factory_program
from toolkit.trust_store.store import trust_store


@dataclass(frozen=True, kw_only=True)
class Found:
    """The programs behind some paths, and those of them that are trusted already."""

    programs: tuple[Program, ...]
    trusted: tuple[Program, ...]

    @property
    def new(self) -> tuple[Program, ...]:
        """The programs that are not trusted yet."""
        return tuple(each for each in self.programs if each not in self.trusted)


def find_programs(paths: Paths) -> Found:
    """Return what would run if these were verified: artifacts that are programs, and the model
    factory of their checkpoint. Nothing runs.

    Args:
        paths: Export folders, artifact files or checkpoint folders.

    Raises:
        ToolkitError: Something is missing or damaged.
    """
    store = trust_store()
    programs = {each.key: each for path in as_paths(paths) for each in _programs_at(path)}
    found = tuple(programs.values())
    return Found(programs=found, trusted=tuple(each for each in found if store.holds(each)))


def trust(paths: Paths) -> tuple[Program, ...]:
    """Record that you trust the programs in export folders, artifacts or checkpoints: artifacts of
    formats that can run code, and model factories. Look at `find_programs` first.

    Returns:
        The programs that were not trusted before.

    Raises:
        ToolkitError: Something is missing or damaged, or the trust store is not writable.
    """
    return trust_programs(find_programs(paths).new)


def trust_programs(programs: Sequence[Program]) -> tuple[Program, ...]:
    """Record that you trust exactly these programs, whatever is at their paths by now."""
    trust_store().add(programs, command="trust")
    return tuple(programs)


def trusted_programs() -> list[Program]:
    """Return all programs that this user trusts, the oldest first."""
    return trust_store().programs()


def revoke(names: Sequence[str]) -> tuple[Program, ...]:
    """Forget programs, given by a path or the first digits of a sha256. Return them.

    Raises:
        NotTrustedError: A name matches no trusted program.
    """
    store = trust_store()
    known = store.programs()
    chosen: dict[str, Program] = {}
    for name in names:
        place = str(Path(name).resolve())
        matching = [each for each in known if _matches(each, name, place)]
        if not matching:
            raise NotTrustedError(
                f"nothing that is trusted matches {name!r}; expected the path of a program, a "
                "folder that contains it, or the first 6 or more digits of its sha256: see "
                "toolkit trust --list"
            )
        chosen.update({each.key: each for each in matching})
    store.remove(list(chosen))
    return tuple(chosen.values())


def _matches(program: Program, name: str, place: str) -> bool:
    if len(name) >= 6 and program.sha256.startswith(name.lower()):
        return True
    return program.path == place or Path(place) in Path(program.path).parents


def _programs_at(path: Path) -> list[Program]:
    if (path / RECORD).exists():
        return _factory_of(path)
    artifacts = find_artifacts([path])
    programs = programs_of((each.path, each.record) for each in artifacts)
    folder = artifacts[0].checkpoint
    if not folder.is_dir():  # verify says what to do about it
        return programs
    try:
        return [*programs, *_factory_of(folder)]
    except CheckpointError as error:
        if (path / MANIFEST).exists():
            raise ArtifactError(f"the checkpoint of {path} cannot be trusted: {error}") from error
        return programs


def _factory_of(checkpoint: Path) -> list[Program]:
    spec = read_checkpoint(checkpoint).model
    return [] if spec.factory == REFERENCE_FACTORY else [factory_program(spec)]
