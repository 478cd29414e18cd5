"""ONNX export with PyTorch's exporter, shared by formats that are converted from ONNX.

In: a model. Out: one self-contained file that passes `onnx.checker`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 18


def write_onnx(model: nn.Module, example: Tensor, path: Path) -> int:
    """Write `model`, traced on `example`, to `path`, and check it; return the opset.

    Its input is named `input`, its output `logits`; the batch is dynamic.

    Raises:
        onnx.checker.ValidationError: torch wrote a file that is not valid ONNX.
    """
    import onnx

    with _quiet(), contextlib.redirect_stdout(sys.stderr):
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes={"input": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return int(proto.opset_import[0].version)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.onnx and onnxscript, which log each pass and warn about their own deprecated
    calls."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    for logger, _ in before:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
