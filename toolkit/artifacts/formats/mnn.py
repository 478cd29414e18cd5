"""MNN: one `.mnn` file, converted from ONNX."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.artifacts.rounding.number_formats import error_of_evaluation
from toolkit.artifacts.rounding.torch_model import logits_of, round_weights
from toolkit.schema import TRAITS, ExpectedError

_OPTIONS = {"fp32": (), "fp16": ("--fp16",), "int8-weights": ("--weightQuantBits", "8")}


def export(request: Request) -> Written:
    """Convert the model's ONNX file.

    The extension module behind MNN's converter is called instead of its command, because the
    command installs a package with pip and sends data to a server. The module leaves a file in the
    working directory.

    Raises:
        RuntimeError: The converter wrote nothing.
    """
    import _tools

    path = request.path.resolve()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        onnx_path, written = Path("model.onnx"), Path("model.mnn")
        opset = write_onnx(request.model, request.example, onnx_path)
        if request.precision == "fp16":
            _round_to_half(onnx_path)
        with _output_in(Path("log")):
            _tools.mnnconvert(
                [
                    "MNNConvert",
                    *("-f", "ONNX"),
                    *("--modelFile", str(onnx_path)),
                    *("--MNNModel", str(written)),
                    *("--bizCode", "toolkit"),
                    *_OPTIONS[request.precision],
                ]
            )
        output = Path("log").read_text(errors="replace")
        sys.stderr.write(output)
        if not written.exists():  # it returns True even if it fails
            raise RuntimeError(f"MNN's converter wrote no file: {why_failed(output)}")
        shutil.copyfile(written, path)
    return Written(opset=opset, expected_error=_expected_error(request))


@contextlib.contextmanager
def _output_in(log: Path) -> Iterator[None]:
    """Send what native code prints into a file."""
    kept = [os.dup(1), os.dup(2)]
    with log.open("wb") as file:
        try:
            sys.stdout.flush()
            for each in (1, 2):
                os.dup2(file.fileno(), each)
            yield
        finally:
            for descriptor, each in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, each)
                os.close(descriptor)


def why_failed(output: str) -> str:
    """Return the line of the converter's output that has the reason, without its time and place;
    otherwise the last line."""
    lines = [re.sub(r"^(\[[\d:]+\]\s*)?(\S*:\d+:\s*)?", "", each) for each in output.splitlines()]
    told = [each.strip() for each in lines if each.strip()]
    reasons = (
        each for each in told if re.search(r"not support|check failed|\berror\b", each, re.I)
    )
    return next(reasons, told[-1] if told else "it printed nothing")


def _expected_error(request: Request) -> ExpectedError | None:
    """Return the expected error of int8-weights: the output of the model with rounded weights."""
    if request.measured is None or not TRAITS[request.precision].quantised:
        return None
    rounded = copy.deepcopy(request.model)
    round_weights(rounded, "int8")
    return error_of_evaluation(
        logits_of(rounded, request.measured),
        logits_of(request.model, request.measured),
        method="the model with weights rounded to 8 bits per output channel",
    )


def _round_to_half(path: Path) -> None:
    """Round weights to the nearest float16. MNN's converter truncates (seen in 3.6.1), which makes
    every weight smaller and logit differences ten times as large."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, path)
