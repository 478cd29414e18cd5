"""The path of the reference checkpoint: in the current folder, else in the package."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path("models/mnist-cnn")
_PACKAGE = Path(__file__).parent.parent
_BUNDLED = _PACKAGE / "checkpoints" / REFERENCE.name  # in an installed wheel
_IN_CLONE = _PACKAGE.parent / REFERENCE


def reference_checkpoint() -> Path:
    """Return the folder of the reference checkpoint: `models/mnist-cnn` if the current folder has
    it, else the copy in the package."""
    if REFERENCE.is_dir():
        return REFERENCE
    return _BUNDLED if _BUNDLED.is_dir() else _IN_CLONE
