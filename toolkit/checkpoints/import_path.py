"""Where model factories are imported from: the usual places, and then the user's folder.

The folder comes last, and only while a factory is imported and called: a file in it that is named
like a library does not replace the library. Child processes find the folder in their environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_VARIABLE = "TOOLKIT_FACTORY_FOLDER"


def import_factories_from(folder: Path | None) -> None:
    """Also import factories from this folder, here and in child processes; None: from no other."""
    if folder is None:
        os.environ.pop(FOLDER_VARIABLE, None)
    else:
        os.environ[FOLDER_VARIABLE] = str(folder.absolute())


@contextmanager
def factories_importable() -> Iterator[None]:
    """Search the user's folder after all other places, while the block runs."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None or folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
