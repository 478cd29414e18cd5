"""Installed packages: their versions, and the rows that plug-ins add to the tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from importlib import metadata
from typing import Protocol, TypeVar

from toolkit.errors import ToolkitWarning, headline


class Row(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Row)


def plugin_rows(group: str, kind: type[R], *, built_in: Collection[str]) -> dict[str, R]:
    """Return the rows that installed packages add to `group`, by name.

    Args:
        group: `toolkit.runtimes` or `toolkit.formats`.
        kind: The class of a row.
        built_in: Names that a plug-in may not take.

    Warns:
        ToolkitWarning: A plug-in cannot be used; the message names the package and the reason.
    """
    rows: dict[str, R] = {}
    for entry in metadata.entry_points(group=group):
        try:
            row = entry.load()
        except Exception as error:  # noqa: BLE001 - third-party code must not stop the toolkit
            _warn(entry, headline(error))
            continue
        problem = _problem(row, entry.name, kind, taken=[*built_in, *rows])
        if problem is None:
            rows[entry.name] = row
        else:
            _warn(entry, problem)
    return rows


def _problem(row: object, name: str, kind: type[R], *, taken: Collection[str]) -> str | None:
    if not isinstance(row, kind):
        return f"it is {type(row).__name__}, expected a row of type {kind.__name__}"
    if row.name != name:
        return f"its row is named {row.name!r}, expected the entry point's name {name!r}"
    if name in taken:
        return f"the name {name!r} is taken; expected a new one"
    return None


def _warn(entry: metadata.EntryPoint, problem: str) -> None:
    package = entry.dist.name if entry.dist is not None else "unknown"
    warnings.warn(
        f"package {package}: its entry point {entry.name} = {entry.value} in {entry.group} is left "
        f"out: {problem}; update the package, or remove it: pip uninstall {package}",
        ToolkitWarning,
        stacklevel=2,
    )


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    # `found.version` parses the whole description as an e-mail, which takes ten times as long.
    header = re.search(r"^Version: *(\S+)", found.read_text("METADATA") or "", re.MULTILINE)
    return header[1] if header else found.version


def versions_of(*distributions: str) -> dict[str, str]:
    """Return distribution → version for the installed ones."""
    found = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}


def dependency_versions(distribution: str) -> dict[str, str]:
    """Return the versions of a distribution and its dependencies, including its extras except
    `test`."""
    try:
        needed = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = [item for item in needed if not re.search(r"extra == .test.$", item)]
    return versions_of(distribution, *(re.split(r"[^\w.-]", item)[0] for item in wanted))
