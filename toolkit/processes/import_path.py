"""Folders that only model factories are imported from.

In: the folder of a trusted factory. Out: it is searched after all other places, and only while a
factory is imported and called: no file in it that is named like a library replaces the library.
Child processes find the folders in their environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NOWHERE = "/dev/null/compiled"
FOLDERS_VARIABLE = "TOOLKIT_FACTORY_FOLDERS"
"""The environment variable that names the folders to child processes, as a JSON list."""


def add_factory_folder(folder: str) -> None:
    """Import factories from this folder too, here and in child processes."""
    folders = factory_folders()
    if folder not in folders:
        os.environ[FOLDERS_VARIABLE] = json.dumps([*folders, folder])


def factory_folders() -> list[str]:
    """Return the folders, in the order in which they were added."""
    return [str(each) for each in json.loads(os.environ.get(FOLDERS_VARIABLE, "[]"))]


@contextmanager
def factories_importable() -> Iterator[None]:
    """Search the folders of factories after all other places, while the block runs.

    Python compiles their source anew: compiled code that lies beside it may be another program than
    the source, which is what the user has seen and trusted.
    """
    added = [each for each in factory_folders() if each not in sys.path]
    before = sys.pycache_prefix, sys.dont_write_bytecode
    sys.path += added
    sys.pycache_prefix, sys.dont_write_bytecode = _NOWHERE, True
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = before
        for each in added:
            sys.path.remove(each)
