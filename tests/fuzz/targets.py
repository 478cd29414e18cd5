"""What a target is: a file of ours, and what reads it.

A target raises `ToolkitError` if it refuses the content. Any other exception is a finding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from hypothesis import strategies as st

from .changes import damaged_bytes, damaged_json


class Target(ABC):
    """A file in a folder of its own, and what reads it."""

    healthy: bytes

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.healthy = self.prepare()

    @abstractmethod
    def prepare(self) -> bytes:
        """Write everything else into the folder, and return the content to damage."""

    @abstractmethod
    def read(self, content: bytes) -> None:
        """Put the content in its place, and read it as a command does."""

    @staticmethod
    def damaged(healthy: bytes) -> st.SearchStrategy[bytes]:
        """Return damaged content."""
        return damaged_bytes(healthy)


class JsonTarget(Target):
    """A target whose content is JSON."""

    @staticmethod
    def damaged(healthy: bytes) -> st.SearchStrategy[bytes]:
        """Return damaged content."""
        return damaged_json(healthy)
