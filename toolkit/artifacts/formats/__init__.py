"""The formats that export writes: one row in this file, and one file per format.

Other packages add rows with entry points of the group `toolkit.formats`.

The module of a format has `export(request) -> Written`. It writes the request's model to its path,
with one input named `input` and one output named `logits` if the format has names, and with a
dynamic batch if it can. Nothing is imported until a format is used.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from toolkit.errors import NotInstalled, Unsupported
from toolkit.names import ALL, known_name, known_names
from toolkit.packages import plugin_rows, versions_of
from toolkit.schema import ExpectedError, Inputs, Isa, Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

ENTRY_POINTS = "toolkit.formats"
UNKNOWN_CODE = "its runtime may run code from it"


@dataclass(frozen=True, kw_only=True)
class Format:
    """The row of a format.

    Attributes:
        module: The module with the exporter.
        suffix: Of the file, or of the folder of files.
        distributions: Packages that must all be installed to write the format.
        extra: The toolkit's extra that installs them; None if the toolkit itself needs them.
        precisions: The precisions that it can be written in.
        uint8: Those in which its input can be uint8, with the preprocessing in the graph.
        float_only: Why its input is float32 in the other precisions.
        usual: Whether it is written by default. Other formats take long or run third-party native
            code, so they get a separate process.
        environment: Variables that must be set before its module is imported.
        runs: What opening an artifact of this format can run. None means that it is data, which a
            parser reads; only such artifacts are opened without the user's trust.
    """

    name: str
    module: str
    suffix: str
    distributions: tuple[str, ...]
    extra: str | None = None
    precisions: tuple[Precision, ...] = ("fp32",)
    uint8: tuple[Precision, ...] = ()
    float_only: str = "its exporter has no such input"
    usual: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    runs: str | None = UNKNOWN_CODE

    @property
    def kind(self) -> Literal["data", "program"]:
        """Whether an artifact is data, or a program that may run code when it is opened."""
        return "data" if self.runs is None else "program"

    @property
    def install(self) -> str:
        """Return the command that installs the missing packages, or all packages if none is
        missing."""
        if self.extra is not None:
            return f"pip install 'toolkit[{self.extra}]'"
        return f"pip install {' '.join(self.missing() or self.distributions)}"

    def refuse_uint8(self, precision: Precision) -> None:
        """Refuse to write an artifact with uint8 input if the format cannot take it.

        Raises:
            Unsupported: The message has the reason.
        """
        if precision not in self.uint8:
            raise Unsupported(
                f"format {self.name} {precision} cannot take uint8 input: {self.float_only}; "
                "export it without --embed-preprocessing"
            )

    def versions(self) -> dict[str, str]:
        """Return the installed versions of the packages that write the format."""
        return versions_of(*self.distributions)

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        found = self.versions()
        return [name for name in self.distributions if name not in found]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request to an exporter.

    Attributes:
        model: Float32 `[N,C,H,W]` named `input` → logits `[N,K]`, in eval mode. If preprocessing is
            a part of it, its input is uint8, and so are `example`, `calibration` and `measured`.
        example: A batch `[2,C,H,W]` to trace with.
        path: The file or folder to write; it does not exist yet.
        precision: A precision that the format supports.
        calibration: Inputs `[N,C,H,W]` to measure ranges on; empty if no ranges are measured.
        isas: Instruction sets on which int8 arithmetic must be exact; None is all.
        measured: Inputs `[N,C,H,W]` to measure the expected error of int8 on; None skips this.
        metadata: How to feed the model, for a format that has a place for it: name → JSON.
    """

    model: nn.Module
    example: Tensor
    path: Path
    precision: Precision
    calibration: Inputs
    isas: tuple[Isa, ...] | None
    measured: Inputs | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result of an exporter; the fields are those of an `Artifact`."""

    opset: int | None = None
    batch_sizes: tuple[int, ...] = ()
    isas: tuple[Isa, ...] | None = None
    expected_error: ExpectedError | None = None
    warnings: tuple[str, ...] = ()


class Exporter(Protocol):
    """The interface of a format's module."""

    def export(self, request: Request) -> Written: ...


FORMATS = {
    row.name: row
    for row in (
        Format(
            name="torchscript",
            module="toolkit.artifacts.formats.torchscript",
            suffix=".torchscript",
            distributions=("torch",),
            uint8=("fp32",),
            usual=True,
            runs="its code can read and write files of the worker",
        ),
        Format(
            name="onnx",
            module="toolkit.artifacts.formats.onnx",
            suffix=".onnx",
            distributions=("torch", "onnx", "onnxscript", "onnxruntime"),
            precisions=("fp32", "fp16", "int8", "int8-dynamic"),
            uint8=("fp32", "fp16", "int8", "int8-dynamic"),
            usual=True,
            runs=None,
        ),
        Format(
            name="ort",
            module="toolkit.artifacts.formats.ort",
            suffix=".ort",
            distributions=("torch", "onnx", "onnxscript", "onnxruntime"),
            uint8=("fp32",),
            runs=None,
        ),
        Format(
            name="pt2",
            module="toolkit.artifacts.formats.pt2",
            suffix=".pt2",
            distributions=("torch",),
            uint8=("fp32",),
            usual=True,
            runs="it can contain Python expressions and native code",
        ),
        Format(
            name="aotinductor",
            module="toolkit.artifacts.formats.aotinductor",
            suffix=".aoti.pt2",
            distributions=("torch",),
            uint8=("fp32",),
            runs="it is native code",
            # Line tables name the files of the exporting machine; read when Inductor is imported.
            environment={"AOT_INDUCTOR_ENABLE_LINE_TABLES": "0"},
        ),
        Format(
            name="openvino",
            module="toolkit.artifacts.formats.openvino",
            suffix=".openvino",
            distributions=("torch", "onnx", "onnxscript", "openvino", "nncf"),
            extra="openvino",
            precisions=("fp32", "fp16", "int8"),
            uint8=("fp32", "fp16", "int8"),
            runs=None,
        ),
        Format(
            name="litert",
            module="toolkit.artifacts.formats.litert",
            suffix=".litert",
            distributions=("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
            extra="litert",
            precisions=("fp32", "fp16", "int8", "int8-dynamic"),
            uint8=("fp32", "fp16", "int8", "int8-dynamic"),
            runs=None,
        ),
        Format(
            name="executorch",
            module="toolkit.artifacts.formats.executorch",
            suffix=".pte",
            distributions=("executorch", "torchao"),
            extra="executorch",
            precisions=("fp32", "int8"),
            uint8=("fp32", "int8"),
            runs=None,
        ),
        Format(
            name="ncnn",
            module="toolkit.artifacts.formats.ncnn",
            suffix=".ncnn",
            distributions=("ncnn", "pnnx"),
            extra="ncnn",
            precisions=("fp32", "fp16"),
            float_only="ncnn computes in float32, and its Cast layer reads bytes as signed",
            runs=None,
        ),
        Format(
            name="mnn",
            module="toolkit.artifacts.formats.mnn",
            suffix=".mnn",
            distributions=("MNN", "onnx", "onnxscript"),
            extra="mnn",
            precisions=("fp32", "fp16", "int8-weights"),
            uint8=("fp32", "int8-weights"),
            float_only="MNN's converter cuts the constants of the normalisation to float16",
            runs=None,
        ),
        Format(
            name="coreml",
            module="toolkit.artifacts.formats.coreml",
            suffix=".mlpackage",
            distributions=("coremltools",),
            extra="coreml",
            precisions=("fp32", "fp16"),
            float_only="an array of an ML program is float16, float32 or int32",
            runs="Core ML compiles and runs it",
        ),
    )
}


def known_formats() -> dict[str, Format]:
    """Return the rows of this table, then the rows that other packages add, by name."""
    return {**FORMATS, **_plugins()}


@functools.cache
def _plugins() -> dict[str, Format]:
    return plugin_rows(ENTRY_POINTS, Format, built_in=FORMATS)


def find_format(name: str) -> Format:
    """Return the row of a format.

    Raises:
        UnknownNameError: No such format; the message lists the known ones.
    """
    rows = FORMATS if name in FORMATS else known_formats()
    return rows[known_name("format", name, rows)]


def choose_formats(names: str | Sequence[str]) -> list[Format]:
    """Return the named formats without duplicates; `all` means all. No names means the default
    formats. See `toolkit.names` for how names may be written.

    Raises:
        UnknownNameError: An unknown format.
    """
    if not names:
        return [row for row in FORMATS.values() if row.usual]
    rows = known_formats()
    chosen = known_names("format", names, [*rows, ALL])
    return [rows[name] for name in (rows if ALL in chosen else chosen)]


def load_exporter(row: Format) -> Exporter:
    """Import the module of a format.

    Raises:
        NotInstalled: A required package is missing.
    """
    if row.missing():
        raise NotInstalled(row.install)
    os.environ.update(row.environment)
    exporter: Exporter = importlib.import_module(row.module)
    return exporter
