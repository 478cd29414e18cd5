"""Programs that run an artifact without the toolkit: templates, filled in with its values.

In: a card. Out: the programs, one for each runtime that loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

from toolkit.artifacts.cards.reading import reading_code, reads_images
from toolkit.schema import Card, Precision

TEMPLATES = Path(__file__).parent / "templates"
_NAMED_CLASSES = 20  # a longer list would hide the program


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A runtime that a program is for.

    Attributes:
        format: Of the files that it loads; `<format>-<runtime>.txt` is its template.
        install: The packages that the program imports, besides numpy and Pillow.
        precisions: Of the files that it loads; None is all.
        system: The only system that it runs on, if it is not any.
    """

    format: str
    runtime: str
    title: str
    install: str
    precisions: tuple[Precision, ...] | None = None
    system: str | None = None


RUNNERS = (
    Runner(format="torchscript", runtime="torchscript", title="PyTorch", install="torch"),
    Runner(format="onnx", runtime="onnxruntime", title="ONNX Runtime", install="onnxruntime"),
    Runner(
        format="onnx",
        runtime="openvino",
        title="OpenVINO",
        install="openvino",
        precisions=("fp32", "fp16", "int8"),
    ),
    Runner(
        format="onnx", runtime="tract", title="tract", install="tract", precisions=("fp32", "fp16")
    ),
    Runner(format="ort", runtime="onnxruntime", title="ONNX Runtime", install="onnxruntime"),
    Runner(format="pt2", runtime="pt2", title="PyTorch", install="torch"),
    Runner(format="aotinductor", runtime="aotinductor", title="PyTorch", install="torch"),
    Runner(format="openvino", runtime="openvino", title="OpenVINO", install="openvino"),
    Runner(format="litert", runtime="litert", title="LiteRT", install="ai-edge-litert"),
    Runner(format="executorch", runtime="executorch", title="ExecuTorch", install="executorch"),
    Runner(format="ncnn", runtime="ncnn", title="ncnn", install="ncnn"),
    Runner(format="mnn", runtime="mnn", title="MNN", install="MNN"),
    Runner(
        format="coreml", runtime="coreml", title="Core ML", install="coremltools", system="macOS"
    ),
)


def runners_of(card: Card) -> list[Runner]:
    """Return the runtimes that load the artifact; none for a format of another package."""
    return [
        each
        for each in RUNNERS
        if each.format == card.format
        and (each.precisions is None or card.precision in each.precisions)
    ]


def snippet(card: Card, runner: Runner) -> str:
    """Return a program that takes the names of files and prints the class of each. It imports
    numpy, the runtime, and Pillow if the model takes images."""
    template = (TEMPLATES / f"{runner.format}-{runner.runtime}.txt").read_text(encoding="utf-8")
    contract = card.contract
    images = "from PIL import Image\n" if reads_images(contract) else ""
    return Template(template).substitute(
        file=_literal(card.file),
        images=images,
        read=f"{_class_names(contract.class_names)}{reading_code(contract)}",
        input=f"{contract.dtype} [N, {', '.join(map(str, contract.shape))}]",
        classes=contract.classes,
        show=_show(contract.class_names),
    )


def _literal(text: str) -> str:
    """Return a text as it stands between double quotes in Python."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in escaped
    )


def _class_names(names: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{_literal(each)}"' for each in names)
    return f"CLASSES = [{listed}]\n" if _are_shown(names) else ""


def _show(names: tuple[str, ...]) -> str:
    found = "CLASSES[row.argmax()]" if _are_shown(names) else "row.argmax()"
    return f"for path, row in zip(sys.argv[1:], logits):\n    print(path, {found})"


def _are_shown(names: tuple[str, ...]) -> bool:
    return 0 < len(names) <= _NAMED_CLASSES
