"""Healthy variants: unusual, rewritten or quantised files and models that must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from toolkit.schema import Precision

from . import nets, onnx_files
from .beds import Bed, copy_of
from .onnx_files import edited
from .records import NOT_FAILED, PASSED, Build, Case

_RUNTIMES = {
    "onnx": ("onnxruntime", "openvino", "tract"),
    "torchscript": ("torchscript", "torchscript-frozen"),
    "pt2": ("pt2",),
    "ort": ("onnxruntime",),
    "openvino": ("openvino",),
    "litert": ("litert",),
    "executorch": ("executorch",),
    "ncnn": ("ncnn",),
    "mnn": ("mnn",),
}
_NARROW: tuple[tuple[str, Precision, str], ...] = (
    *(("onnx", "fp16", runtime) for runtime in ("onnxruntime", "openvino", "tract")),
    *((format, "fp16", format) for format in ("openvino", "litert", "ncnn", "mnn")),
    *(("onnx", "int8", runtime) for runtime in ("onnxruntime", "openvino")),
    *((format, "int8", format) for format in ("openvino", "litert", "executorch")),
    ("onnx", "int8-dynamic", "onnxruntime"),
    ("litert", "int8-dynamic", "litert"),
    ("mnn", "int8-weights", "mnn"),
)


def plain(format: str, precision: Precision = "fp32") -> Build:
    """Return the toolkit's own export."""
    return lambda bed, path: copy_of(bed.healthy(format, precision), path)


def variant(
    name: str,
    build: Build,
    *,
    bed: str = "mnist",
    format: str = "onnx",
    precision: Precision = "fp32",
    runtime: str | None = None,
    batch_size: int = 100,
    threads: int = 1,
    short: bool = False,
) -> Case:
    """Return a case that must pass."""
    return Case(
        name=name,
        level="healthy",
        build=build,
        bed=bed,
        format=format,
        precision=precision,
        runtime=runtime or _RUNTIMES[format][0],
        expect=PASSED if precision == "fp32" else NOT_FAILED,
        moves=False,
        short=short,
        batch_size=batch_size,
        threads=threads,
    )


def _opset(version: int) -> Build:
    """Convert the healthy graph to another opset; its operators mean the same in all of them."""

    def edit(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version
        if version < 14:  # Reshape had no such attribute then
            for node in model.graph.node:
                kept = [each for each in node.attribute if each.name != "allowzero"]
                del node.attribute[:]
                node.attribute.extend(kept)
        onnx.checker.check_model(model, full_check=True)

    return edited(edit)


def _optimised(level: str) -> Build:
    """Return the file that ONNX Runtime saves after its own optimisation."""

    def build(bed: Bed, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_{level}"
        )
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(
            str(bed.healthy("onnx")), options, providers=["CPUExecutionProvider"]
        )

    return build


class _Batches:
    """Calibration inputs as ONNX Runtime's quantiser reads them."""

    def __init__(self, bed: Bed) -> None:
        self._batches = iter(np.array_split(bed.calibration(), 4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """One batch, then None."""
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def _static_by_default(bed: Bed, path: Path) -> None:
    """ONNX Runtime's `quantize_static` with all its defaults."""
    from onnxruntime.quantization import quantize_static

    quantize_static(bed.healthy("onnx"), path, _Batches(bed))


def _dynamic_by_default(bed: Bed, path: Path) -> None:
    """ONNX Runtime's `quantize_dynamic` of the matrix products."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(bed.healthy("onnx"), path, op_types_to_quantize=["MatMul", "Gemm"])


def _by_nncf(bed: Bed, path: Path) -> None:
    """NNCF's quantisation of the ONNX file, with all its defaults."""
    import contextlib
    import logging
    import sys

    import nncf

    nncf.set_log_level(logging.ERROR)
    images = [{"input": each[None]} for each in bed.calibration()]
    with contextlib.redirect_stdout(sys.stderr):
        model = nncf.quantize(onnx.load(bed.healthy("onnx")), nncf.Dataset(images))
    path.write_bytes(model.SerializeToString())


def _batchnorm_folded(bed: Bed, path: Path) -> None:
    """Fold BatchNorm into the preceding convolution, with torch."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = bed.model()
    body = model.get_submodule("body")
    assert isinstance(body, torch.nn.Sequential)
    for at in (0, 3):
        conv, norm = body[at], body[at + 1]
        assert isinstance(conv, torch.nn.Conv2d)
        assert isinstance(norm, torch.nn.BatchNorm2d)
        body[at] = fuse_conv_bn_eval(conv, norm)
        body[at + 1] = torch.nn.Identity()
    bed.export(model, path, "onnx")


FORMATS = (
    *(
        variant(f"{format} in {runtime}", plain(format), format=format, runtime=runtime,
                short=runtime in ("onnxruntime", "torchscript") and format != "ort")
        for format, runtimes in _RUNTIMES.items()
        for runtime in runtimes
    ),
    *(
        variant(f"{format} {precision} in {runtime}", plain(format, precision), format=format,
                precision=precision, runtime=runtime, bed="mnist 10000",
                short=(format, precision, runtime) == ("onnx", "fp16", "onnxruntime"))
        for format, precision, runtime in _NARROW
    ),
    variant("quantize_static with its defaults", _static_by_default, precision="int8",
            bed="mnist 10000"),
    variant("quantize_dynamic of matrix products", _dynamic_by_default, precision="int8-dynamic",
            bed="mnist 10000"),
    variant("NNCF on ONNX", _by_nncf, precision="int8", bed="mnist 10000"),
)  # fmt: skip

REWRITTEN = (
    *(variant(f"opset {each}", _opset(each), short=each == 13) for each in range(13, 22)),
    *(
        variant(f"optimised offline: {level}", _optimised(level))
        for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
    ),
    variant("weights as Constant nodes", edited(onnx_files.weights_as_constants)),
    variant("pool rounds up, no effect", edited(onnx_files.ceil_pool)),
    variant("Gemm as MatMul and Add", edited(onnx_files.gemm_as_matmul)),
    variant("fc1 as the sum of two halves", edited(onnx_files.split_sum)),
    variant("features in another order", edited(onnx_files.features_permuted)),
    variant("last layer in float64", edited(onnx_files.in_double)),
    variant("two Transposes that cancel", edited(onnx_files.shuffled_layout)),
    variant("Dropout node without training mode", edited(onnx_files.dropout(training=False))),
    variant("Dropout node p=0.01 without training mode",
            edited(onnx_files.dropout(training=False, ratio=0.01))),
)  # fmt: skip

_SIZES = (1, 7, 33, 64, 256, 1000)
SETTINGS = (
    *(
        variant(f"batch size {size}", onnx_files.marked(f"batch {size}"), batch_size=size,
                bed="mnist 300")
        for size in _SIZES
    ),
    *(
        variant(f"torchscript at batch size {size}", plain("torchscript"), format="torchscript",
                batch_size=size, bed="mnist 300")
        for size in (1, 33)
    ),
    *(
        variant(f"{format} with 2 threads", plain(format), format=format, threads=2,
                bed="mnist 300")
        for format in ("onnx", "torchscript", "openvino", "ncnn")
    ),
)  # fmt: skip


def _own(name: str, *, formats: tuple[str, ...] = ("onnx",), short: bool = False) -> list[Case]:
    """Return the toolkit's exports of a user's own model."""
    return [
        variant(f"{name}: {format}", plain(format), bed=name, format=format, short=short)
        for format in formats
    ]


_BOTH = ("onnx", "torchscript")
_THREE = (*_BOTH, "pt2")
OWN_MODELS = (
    *(case for kind in nets.KINDS
      for case in _own(kind, formats=_THREE)),
    variant("batchnorm folded into convolutions", _batchnorm_folded, bed="batchnorm",
            short=True),
    *(variant(f"{kind}: {format}", plain(format), bed=kind, format=format)
      for kind in ("batchnorm", "residual", "depthwise") for format in ("openvino", "mnn")),
    *(variant(f"{kind}: onnx int8", plain("onnx", "int8"), bed=kind, precision="int8")
      for kind in ("batchnorm", "residual")),
    *(case for each in nets.SEEDS for case in _own(f"seed {each}", formats=_BOTH)),
    *(case for each in nets.CLASSES for case in _own(f"{each} classes", formats=_BOTH)),
    *(case for each in nets.SCALES for case in _own(f"scale {each:g}")),
    *(case for each in nets.OFFSETS
      for case in _own(f"offset {each:g}", formats=_BOTH)),
    *(case for each in nets.TIES for case in _own(f"tie {each:g}", formats=_BOTH)),
    *(case for name in ("masked -inf", "masked least")
      for case in _own(name, formats=_BOTH)),
    *_own("constant", formats=_BOTH),
    *_own("in place", formats=_BOTH),
    *_own("standardised", formats=_BOTH),
    *_own("narrow", formats=("openvino", "onnx", "torchscript", "litert")),
    *_own("narrow", formats=("executorch", "ncnn", "mnn")),
    *_own("wide mean", formats=("executorch",), short=True),
    *_own("wide mean", formats=("openvino", "mnn")),
)  # fmt: skip
VARIANTS: tuple[Case, ...] = (*FORMATS, *REWRITTEN, *SETTINGS, *OWN_MODELS)
