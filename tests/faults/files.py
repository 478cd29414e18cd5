"""Cases of single files: faults of the ONNX export, and of every other format.

Most are the toolkit's own export of a changed network, recorded as an export of the healthy
checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.schema import Precision

from . import onnx_files
from .beds import Bed, copy_of
from .int8 import INT8_FAULTS, NEED_NOT_BE_CAUGHT
from .modules import FAULTS as CHANGES
from .modules import Change, Changed, scaled_layer
from .onnx_files import edited
from .records import CAUGHT, NOT_FAILED, PASSED, UNDECIDED, Build, Case

_SHORT = {
    *("weight fc1 +1 %", "avg pool", "normalised twice", "softmax output"),
    *("classes 3,5 swapped", "weights rounded to fp16 in an fp32 file", "blank image wrong"),
    "minus mean over the batch (10 %)",
}
_SHORT_TORCHSCRIPT = ("torchscript", "softmax output")
_INT8_CAUSES = frozenset(
    {"saturation", "scaled layer", "scaled weights", "weights changed", "channels swapped",
     "weights rounded to 4 bits", "bias of classes", "one class", "scale", "few weights changed"}
)  # fmt: skip
_PLAIN = {  # runtime of a format
    "onnx": "onnxruntime",
    "torchscript": "torchscript",
    "pt2": "pt2",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "mnn",
    "litert": "litert",
    "executorch": "executorch",
}


def exported(change: Change, format: str = "onnx", precision: Precision = "fp32") -> Build:
    """The toolkit's export of the changed network."""

    def build(bed: Bed, path: Path) -> None:
        net = bed.model()
        assert isinstance(net, ReferenceCNN)
        bed.export(change(net), path, format, precision)

    return build


def changed(name: str, fault: Changed, format: str = "onnx", *, short: bool = False) -> Case:
    """A change of the network as a fault of a file."""
    return Case(
        name=name if format == "onnx" else f"{format}: {name}",
        level="file",
        build=exported(fault.change, format),
        format=format,
        runtime=_PLAIN[format],
        cause=fault.cause,
        moves=fault.moves,
        short=short,
    )


def _edit(
    name: str,
    edit: onnx_files.Edit,
    *causes: str,
    short: bool = False,
    precision: Precision = "fp32",
) -> Case:
    return Case(
        name=name,
        level="file",
        build=edited(edit),
        cause=frozenset(causes) | {"graph changed"},
        short=short,
        precision=precision,
    )


def _as(recorded: Precision, written: Precision, format: str = "onnx") -> Case:
    """Return a healthy file of one precision, recorded with another precision."""
    return Case(
        name=f"{'' if format == 'onnx' else f'{format}: '}{written} recorded as {recorded}",
        level="file",
        build=lambda bed, path: copy_of(bed.healthy(format, written), path),
        format=format,
        runtime=_PLAIN[format],
        precision=recorded,
    )


_NO_EFFECT = {  # ONNX Runtime removes Dropout; no activation of this checkpoint reaches 6
    *("relu6 for relu", "dropout active p=0.5", "dropout active p=0.01"),
    "Dropout node in training mode p=0.5",
}
_ALL_ONNX = (
    *(changed(name, fault, short=name in _SHORT) for name, fault in CHANGES.items()),
    _edit("batch frozen at 1", onnx_files.frozen(1), "one batch size"),
    _edit("batch frozen at 100", onnx_files.frozen(100), "one batch size", short=True),
    _edit("batch frozen at 100 by Reshape", onnx_files.frozen_by_reshape(100), "one batch size"),
    _edit("file wrong at batch 1", onnx_files.wrong_where("one"), "one batch size", short=True),
    _edit("file wrong at odd batch sizes", onnx_files.wrong_where("odd"), "one batch size"),
    _edit("fp16 Constant nodes + Cast, recorded fp32", onnx_files.weights_as_half_constants,
          "weights rounded to fp16"),
    _edit("rounded to fp16 inside a function", onnx_files.hidden_in_function,
          "activations rounded to fp16"),
    _edit("logits through fp16 in the graph", onnx_files.through_half, "float16 output"),
    _edit("noise of 1e-3 in the graph", onnx_files.noise(1e-3), "random"),
    _edit("Dropout node in training mode p=0.5", onnx_files.dropout(training=True), "random"),
    _edit("one bit of one weight", onnx_files.flipped_bit, "few weights changed"),
    _edit("one weight is NaN", onnx_files.nan_weight, "not finite"),
    _edit("output has another name", onnx_files.other_output_name),
    _edit("input has another name", onnx_files.other_input_name),
    _edit("logits are float64", onnx_files.float64_output),
    Case(name="truncated, checksum agrees", level="file", build=onnx_files.truncated),
    Case(name="spoiled weights in external data", level="file",
         build=onnx_files.external(spoiled=True),
         cause=frozenset({"few weights changed"})),
    _as("fp32", "fp16"),
    _as("fp32", "int8"),
    _as("int8", "fp32"),
    _as("fp32", "int8-dynamic"),
)  # fmt: skip
ONNX = tuple(
    replace(case, expect=CAUGHT | PASSED, moves=False) if case.name in _NO_EFFECT else case
    for case in _ALL_ONNX
)


def patched(format: str, layer: str, factor: float, *, only: str = "*") -> Build:
    """Find the weights of one layer in the bytes of the healthy artifact, and multiply them."""

    def build(bed: Bed, path: Path) -> None:
        copy_of(bed.healthy(format), path)
        net = bed.model()
        values = net.get_parameter(f"{layer}.weight").detach().numpy().ravel()
        files = [path] if path.is_file() else [each for each in path.glob(only) if each.is_file()]
        if not sum(_multiply(each, values[:64], factor) for each in files):
            raise ValueError(f"the weights of {layer} are not to be found in {path.name}")

    return build


def _multiply(path: Path, values: NDArray[np.float32], factor: float) -> int:
    """Multiply a run of float32 values in a file; return how often it occurred."""
    content, old = path.read_bytes(), values.tobytes()
    path.write_bytes(content.replace(old, (values * np.float32(factor)).tobytes()))
    return content.count(old)


def _average_pool_in_ncnn(bed: Bed, path: Path) -> None:
    """`0=0` (maximum) of the Pooling layer becomes `0=1` (mean)."""
    copy_of(bed.healthy("ncnn"), path)
    param = path / "model.param"
    lines = param.read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("Pooling"))
    assert " 0=0" in lines[at]
    lines[at] = lines[at].replace(" 0=0", " 0=1", 1)
    param.write_text("\n".join(lines) + "\n")


def _scaled_for_one_size(bed: Bed, path: Path, size: int) -> None:
    """Replace one of the files of a LiteRT artifact by that of another model."""
    copy_of(bed.healthy("litert"), path)
    net = bed.model()
    assert isinstance(net, ReferenceCNN)
    other = path.with_name("other.litert")
    bed.export(scaled_layer("fc2", 0.5)(net), other, "litert")
    (other / f"batch-{size}.tflite").replace(path / f"batch-{size}.tflite")
    for each in other.iterdir():
        each.unlink()
    other.rmdir()


def _litert(size: int) -> Case:
    return Case(
        name=f"litert: batch-{size}.tflite spoiled",
        level="file",
        build=lambda bed, path: _scaled_for_one_size(bed, path, size),
        format="litert",
        runtime="litert",
        cause=frozenset({"one batch size"}) if size == 1 else frozenset({"scale"}),
        short=False,
    )


def _patch(format: str, layer: str, factor: float, *, only: str = "*") -> Case:
    return Case(
        name=f"{format}: 64 weights of {layer} x {factor:g} in the file",
        level="file",
        build=patched(format, layer, factor, only=only),
        format=format,
        runtime=_PLAIN[format],
        # All of them belong to the first class, which exposes a format whose weights are not read.
        cause=frozenset({"few weights changed", "weights changed", "one class"}),
    )


_BY_FORMAT = {
    "torchscript": (
        *("normalised twice", "avg pool", "softmax output", "bias conv1 dropped"),
        *("weights rounded to fp16 in an fp32 file", "dropout active p=0.01", "weight fc1 +1 %"),
    ),
    "pt2": (
        *("normalisation missing", "log-softmax output", "classes 3,5 swapped"),
        *("weights rounded to bf16 in an fp32 file", "relu missing after fc1"),
    ),
    "openvino": (
        *("0..255 for 0..1", "sigmoid output", "layer conv2 scaled 2 %"),
        "all weights +- 0.01 %",
    ),
    "ncnn": ("padding: shifted by 1 pixel", "elu for last relu", "logits / 10 (temperature)"),
    "mnn": ("inverted", "fc1 fed H/W swapped", "weights rounded to 8 bits in an fp32 file"),
    "litert": ("leaky relu", "mean/std ImageNet"),
    "executorch": ("gelu for last relu", "normalised twice"),
}  # fmt: skip
OTHER_FORMATS = (
    *(
        changed(name, CHANGES[name], format, short=(format, name) == _SHORT_TORCHSCRIPT)
        for format, names in _BY_FORMAT.items()
        for name in names
    ),
    _patch("openvino", "fc2", 1.01, only="*.bin"),
    _patch("ncnn", "fc2", 1.01, only="*.bin"),
    _patch("mnn", "fc2", 1.01),
    _patch("litert", "fc2", 1.01, only="batch-100.tflite"),
    _patch("executorch", "fc2", 1.01),
    _patch("pt2", "fc2", 1.01),
    _patch("torchscript", "fc2", 1.01),
    Case(name="ncnn: mean for maximum in model.param", level="file", build=_average_pool_in_ncnn,
         format="ncnn", runtime="ncnn", cause=frozenset({"other pooling"})),
    _litert(1),
    _litert(100),
    _as("fp32", "fp16", "ncnn"),
    _as("fp32", "fp16", "openvino"),
    _as("fp32", "fp16", "mnn"),
    _as("fp32", "fp16", "litert"),
    _as("fp32", "int8", "openvino"),
)  # fmt: skip


def other_checkpoint(bed: Bed, path: Path) -> None:
    """Return the export of another training of the same network, recorded as one of this
    checkpoint."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(123)
        bed.export(ReferenceCNN().eval(), path, "onnx")


OTHER_CHECKPOINT = Case(
    name="another checkpoint's export",
    level="file",
    build=other_checkpoint,
    cause=frozenset({"another checkpoint"}),
    expect=CAUGHT,
)
INT8 = tuple(
    Case(
        name=f"int8 {name}",
        level="file",
        build=edited(change, "int8"),
        bed="mnist 10000",
        precision="int8",
        # A healthy int8 file is as far from the checkpoint as these.
        expect=CAUGHT | (NOT_FAILED if name in NEED_NOT_BE_CAUGHT else UNDECIDED),
        cause=_INT8_CAUSES,
        moves=name not in NEED_NOT_BE_CAUGHT,
    )
    for name, change in INT8_FAULTS.items()
)
FILES = (*ONNX, OTHER_CHECKPOINT, *OTHER_FORMATS, *INT8)
