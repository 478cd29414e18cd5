"""The formats that export writes: one row here, one file beside this one.

A format's module has `export(model, example, path) -> int | None`: it writes the model, in eval
mode, with a dynamic batch, one input named `input` and one output named `logits`, to `path`, and
returns the opset where the format has one. Nothing is imported until a format is used.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import NotInstalled, UnknownNameError
from toolkit.versions import versions_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row: `module` has the exporter; all `distributions` must be installed to use it."""

    name: str
    module: str
    suffix: str
    distributions: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that installs what is missing; all that is needed where nothing is."""
        return f"pip install {' '.join(self.missing() or self.distributions)}"

    def versions(self) -> dict[str, str]:
        """The installed versions of what it is written with."""
        return versions_of(*self.distributions)

    def missing(self) -> list[str]:
        """Distributions that are not installed."""
        return [name for name in self.distributions if name not in self.versions()]


class Exporter(Protocol):
    """Writes `model` to `path`; `example` is a float32 batch `[N,C,H,W]` to trace with."""

    def export(self, model: nn.Module, example: Tensor, path: Path) -> int | None: ...


FORMATS = {
    row.name: row
    for row in (
        Format(
            name="torchscript",
            module="toolkit.formats.torchscript",
            suffix=".torchscript",
            distributions=("torch",),
        ),
        Format(
            name="onnx",
            module="toolkit.formats.onnx",
            suffix=".onnx",
            distributions=("torch", "onnx", "onnxscript"),
        ),
        Format(
            name="pt2",
            module="toolkit.formats.pt2",
            suffix=".pt2",
            distributions=("torch",),
        ),
    )
}


def find_format(name: str) -> Format:
    """The row of a format.

    Raises:
        UnknownNameError: no such format; the message lists the known ones.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, list(FORMATS))
    return FORMATS[name]


def load_exporter(row: Format) -> Exporter:
    """Import a format's module.

    Raises:
        NotInstalled: a package that it needs is missing.
    """
    if row.missing():
        raise NotInstalled(row.install)
    exporter: Exporter = importlib.import_module(row.module)
    return exporter
