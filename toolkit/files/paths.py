"""Paths as people give them: text or `Path`, one or several.

In: an argument of a public function. Out: `Path` objects. `~` is the user's home.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from toolkit.errors import SettingError

StrPath: TypeAlias = str | Path
Paths: TypeAlias = str | Path | Sequence[str | Path]


def as_path(given: StrPath, what: str = "path") -> Path:
    """Return a path. `what` names the argument in messages.

    Raises:
        SettingError: It is neither text nor a path, or it is empty.
    """
    if not isinstance(given, str | os.PathLike):
        raise SettingError(f"{what}: expected a path as text or Path, got {type(given).__name__}")
    text = os.fspath(given)
    if not isinstance(text, str) or not text:
        raise SettingError(f"{what}: expected a path as text or Path, got {given!r}")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:  # no such user, or no home
        raise SettingError(f"{what} {text}: {error}; write the whole path") from error


def optional_path(given: StrPath | None, what: str = "path") -> Path | None:
    """Return a path, or None for None; see `as_path`."""
    return None if given is None else as_path(given, what)


def as_paths(given: Paths, what: str = "paths") -> list[Path]:
    """Return a list of paths; a single one needs no list.

    Raises:
        SettingError: Something is neither text nor a path.
    """
    if isinstance(given, str | os.PathLike):
        return [as_path(given, what)]
    try:
        each_one = list(given)
    except TypeError as error:
        kind = type(given).__name__
        raise SettingError(f"{what}: expected a path or a list of paths, got {kind}") from error
    return [as_path(each, what) for each in each_one]
