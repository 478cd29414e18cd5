"""The formats that export writes: one row here, one file beside this one.

Other packages add rows by entry points of the group `toolkit.formats`.

A format's module has `export(request) -> Written`: it writes the request's model to its path, with
one input named `input` and one output named `logits` where the format has names, and a dynamic
batch where it can. Nothing is imported until a format is used.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import NotInstalled, UnknownNameError
from toolkit.plugins import plugin_rows
from toolkit.schema import ExpectedError, Isa, Precision
from toolkit.versions import versions_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

ALL = "all"
ENTRY_POINTS = "toolkit.formats"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row.

    Attributes:
        module: Has the exporter.
        suffix: Of the file, or of the folder of files.
        distributions: All of them must be installed to write it.
        extra: The toolkit's extra that installs them; None where the toolkit itself needs them.
        precisions: Those that it can be written in.
        usual: Written where no format is named. Others take long, or somebody else's native code
            writes them: they get a process of their own.
        environment: Variables that must be set before its module is imported.
    """

    name: str
    module: str
    suffix: str
    distributions: tuple[str, ...]
    extra: str | None = None
    precisions: tuple[Precision, ...] = ("fp32",)
    usual: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def install(self) -> str:
        """The command that installs what is missing; all that is needed where nothing is."""
        if self.extra is not None:
            return f"pip install 'toolkit[{self.extra}]'"
        return f"pip install {' '.join(self.missing() or self.distributions)}"

    def versions(self) -> dict[str, str]:
        """The installed versions of what it is written with."""
        return versions_of(*self.distributions)

    def missing(self) -> list[str]:
        """Distributions that are not installed."""
        found = self.versions()
        return [name for name in self.distributions if name not in found]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an exporter is asked for.

    Attributes:
        model: Float32 `[N,C,H,W]` named `input` → logits `[N,K]`, in eval mode.
        example: A float32 batch `[2,C,H,W]` to trace with.
        path: The file, or the folder, to write; neither is there.
        precision: One that the format has.
        calibration: Float32 inputs `[N,C,H,W]` to measure ranges on; none where none are measured.
        isas: Instruction sets on which int8 arithmetic shall be exact; None is all.
        measured: Inputs `[N,C,H,W]` to measure the expected error of int8 on; None leaves it out.
    """

    model: nn.Module
    example: Tensor
    path: Path
    precision: Precision
    calibration: NDArray[np.float32]
    isas: tuple[Isa, ...] | None
    measured: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an exporter has written; the fields are those of an `Artifact`."""

    opset: int | None = None
    batch_sizes: tuple[int, ...] = ()
    isas: tuple[Isa, ...] | None = None
    expected_error: ExpectedError | None = None


class Exporter(Protocol):
    """What a format's module provides."""

    def export(self, request: Request) -> Written: ...


FORMATS = {
    row.name: row
    for row in (
        Format(
            name="torchscript",
            module="toolkit.artifacts.formats.torchscript",
            suffix=".torchscript",
            distributions=("torch",),
            usual=True,
        ),
        Format(
            name="onnx",
            module="toolkit.artifacts.formats.onnx",
            suffix=".onnx",
            distributions=("torch", "onnx", "onnxscript", "onnxruntime"),
            precisions=("fp32", "fp16", "int8", "int8-dynamic"),
            usual=True,
        ),
        Format(
            name="ort",
            module="toolkit.artifacts.formats.ort",
            suffix=".ort",
            distributions=("torch", "onnx", "onnxscript", "onnxruntime"),
        ),
        Format(
            name="pt2",
            module="toolkit.artifacts.formats.pt2",
            suffix=".pt2",
            distributions=("torch",),
            usual=True,
        ),
        Format(
            name="aotinductor",
            module="toolkit.artifacts.formats.aotinductor",
            suffix=".aoti.pt2",
            distributions=("torch",),
        ),
        Format(
            name="openvino",
            module="toolkit.artifacts.formats.openvino",
            suffix=".openvino",
            distributions=("torch", "onnx", "onnxscript", "openvino", "nncf"),
            extra="openvino",
            precisions=("fp32", "fp16", "int8"),
        ),
        Format(
            name="litert",
            module="toolkit.artifacts.formats.litert",
            suffix=".litert",
            distributions=("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
            extra="litert",
            precisions=("fp32", "fp16", "int8", "int8-dynamic"),
        ),
        Format(
            name="executorch",
            module="toolkit.artifacts.formats.executorch",
            suffix=".pte",
            distributions=("executorch", "torchao"),
            extra="executorch",
            precisions=("fp32", "int8"),
        ),
        Format(
            name="ncnn",
            module="toolkit.artifacts.formats.ncnn",
            suffix=".ncnn",
            distributions=("ncnn", "pnnx"),
            extra="ncnn",
            precisions=("fp32", "fp16"),
        ),
        Format(
            name="mnn",
            module="toolkit.artifacts.formats.mnn",
            suffix=".mnn",
            distributions=("MNN", "onnx", "onnxscript"),
            extra="mnn",
            precisions=("fp32", "fp16", "int8-weights"),
        ),
        Format(
            name="coreml",
            module="toolkit.artifacts.formats.coreml",
            suffix=".mlpackage",
            distributions=("coremltools",),
            extra="coreml",
            precisions=("fp32", "fp16"),
        ),
    )
}


def known_formats() -> dict[str, Format]:
    """The rows of this table, then those that other packages add, by name."""
    return {**FORMATS, **_plugins()}


@functools.cache
def _plugins() -> dict[str, Format]:
    return plugin_rows(ENTRY_POINTS, Format, built_in=FORMATS)


def find_format(name: str) -> Format:
    """The row of a format.

    Raises:
        UnknownNameError: no such format; the message lists the known ones.
    """
    found = FORMATS.get(name) or known_formats().get(name)
    if found is None:
        raise UnknownNameError("format", name, list(known_formats()))
    return found


def choose_formats(names: Sequence[str]) -> list[Format]:
    """The formats named, none twice; `all` stands for all. No names means the usual ones.

    Raises:
        UnknownNameError: an unknown format.
    """
    if not names:
        return [row for row in FORMATS.values() if row.usual]
    spread = [each for name in names for each in (known_formats() if name == ALL else [name])]
    return [find_format(name) for name in dict.fromkeys(spread)]


def load_exporter(row: Format) -> Exporter:
    """Import a format's module.

    Raises:
        NotInstalled: a package that it needs is missing.
    """
    if row.missing():
        raise NotInstalled(row.install)
    os.environ.update(row.environment)
    exporter: Exporter = importlib.import_module(row.module)
    return exporter
