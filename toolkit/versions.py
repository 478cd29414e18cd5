"""Installed versions, read from package metadata without importing the packages."""

from __future__ import annotations

import re
from importlib import metadata


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
