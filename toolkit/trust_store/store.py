"""The trust store: one small file for each program that this user allows to run.

A program is an artifact of a program format, or the factory of a model. The store is in the user's
state folder, outside of every artifact's folder, so that nobody can send it together with a file.
"""

from __future__ import annotations

import functools
import os
import shlex
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from toolkit.errors import NotTrustedError, OutputError, ToolkitWarning
from toolkit.files import read_json, write_json
from toolkit.schema import Program, from_json, to_json
from toolkit.timing import now


@dataclass(frozen=True, kw_only=True)
class TrustStore:
    """The trusted programs in a folder, one file per program, named after its key."""

    folder: Path

    def holds(self, program: Program) -> bool:
        """Return whether exactly these bytes (and arguments) are trusted."""
        return self._safe() and self._file(program.key).is_file()

    def add(self, programs: Sequence[Program], *, command: str) -> None:
        """Record that the user trusts these programs.

        Raises:
            OutputError: The folder is not writable.
        """
        for each in programs:
            record = replace(each, command=command, time=now().isoformat(timespec="seconds"))
            write_json(self._file(each.key), to_json(record))
        if programs:
            self.folder.chmod(0o700)

    def remember(self, programs: Sequence[Program], *, command: str) -> None:
        """Like `add`, but only warn if the folder is not writable."""
        try:
            self.add(programs, command=command)
        except (OutputError, OSError) as error:
            warnings.warn(
                f"cannot record in {self.folder} that {programs[0]} is yours: {error}; later "
                "commands will ask for --trust",
                ToolkitWarning,
                stacklevel=2,
            )

    def remove(self, keys: Sequence[str]) -> None:
        """Forget the programs with these keys."""
        for key in keys:
            self._file(key).unlink(missing_ok=True)

    def programs(self) -> list[Program]:
        """Return all trusted programs, the oldest first. Files that are not records are skipped."""
        found = []
        for path in self.folder.glob("*.json") if self._safe() else ():
            try:
                program = from_json(Program, read_json(path))
            except (OSError, ValueError):
                continue
            if path == self._file(program.key):
                found.append(program)
        return sorted(found, key=lambda each: each.time)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _safe(self) -> bool:
        """Return whether the folder exists and only this user can write to it.

        Raises:
            NotTrustedError: Another user owns it or can write to it.
        """
        try:
            found = self.folder.stat()
        except OSError:
            return False
        writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid != os.geteuid() or writable:
            raise NotTrustedError(
                f"other users can write to {self.folder}, which records the trusted programs; "
                f"check its files, then run: chmod 700 {self.folder}"
            )
        return True


def trust_store() -> TrustStore:
    """Return the trust store of this user: `$XDG_STATE_HOME/toolkit/trusted`, or the folder that
    this system uses for the state of programs."""
    return TrustStore(folder=Path(platformdirs.user_state_path("toolkit")) / "trusted")


def require_trust(programs: Sequence[Program], *, given: bool, what: Sequence[str]) -> None:
    """Refuse programs that are not trusted, before any of them runs.

    Args:
        programs: The programs that would run.
        given: Whether the user trusts all of them for this command (`--trust`).
        what: The arguments of `toolkit trust` that show them.

    Raises:
        NotTrustedError: Says what would run, and how to trust it.
    """
    store = trust_store()
    unknown = [each for each in programs if not store.holds(each)]
    if given:
        for each in unknown:
            _say(f"--trust: running {each}, sha256 {each.sha256[:12]}: {each.runs}")
        return
    if not unknown:
        return
    first, others = unknown[0], len(unknown) - 1
    changed = _changed(first, store)
    raise NotTrustedError(
        f"{first} is a program that you have not trusted{changed} (sha256 {first.sha256[:12]}): "
        f"{first.runs}{f'; {others} more like it' if others else ''}. See what would run, and "
        f"trust it if you know its author: toolkit trust {shlex.join(what)}; or trust it for this "
        f"command only with --trust{_option_of(first)}"
    )


def _option_of(program: Program) -> str:
    """Return the option that trusts a model factory alone; a checkpoint's arguments need more."""
    named = program.kind == "factory" and not program.arguments
    return f", or --model {program.name}" if named else ""


@functools.cache  # a command may need the same program several times
def _say(text: str) -> None:
    warnings.warn(text, ToolkitWarning, stacklevel=2)


def _changed(program: Program, store: TrustStore) -> str:
    same = (program.kind, program.name, program.path)
    for each in store.programs():
        if (each.kind, each.name, each.path) == same:
            return ", because it has changed since you did"
    return ""
