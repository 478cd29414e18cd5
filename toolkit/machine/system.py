"""The operating systems that the toolkit runs on."""

from __future__ import annotations

import sys

from toolkit.errors import UnsupportedSystemError

_SUPPORTED = {"linux": "Linux", "darwin": "macOS"}


def check_system() -> None:
    """Refuse a system on which workers cannot be started, limited and ended.

    Raises:
        UnsupportedSystemError: names this system, and those that would do.
    """
    if sys.platform not in _SUPPORTED:
        raise UnsupportedSystemError(
            f"toolkit does not run on {sys.platform}: expected {' or '.join(_SUPPORTED.values())}, "
            "for its worker processes; use a Linux container or virtual machine (on Windows: WSL 2)"
        )
