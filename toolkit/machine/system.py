"""The operating systems that the toolkit runs on."""

from __future__ import annotations

import sys

from toolkit.errors import UnsupportedSystemError

_SUPPORTED = {"linux": "Linux", "darwin": "macOS"}


def check_system() -> None:
    """Refuse systems on which workers cannot be started, limited and ended.

    Raises:
        UnsupportedSystemError: The message names this system and the supported ones.
    """
    if sys.platform not in _SUPPORTED:
        raise UnsupportedSystemError(
            f"toolkit does not run on {sys.platform}: expected {' or '.join(_SUPPORTED.values())}, "
            "for its worker processes; use a Linux container or virtual machine (on Windows: WSL 2)"
        )
