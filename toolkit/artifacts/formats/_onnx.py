"""ONNX export with PyTorch's exporter, shared by formats that are converted from ONNX.

In: a model. Out: one self-contained file that passes `onnx.checker`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.artifacts.formats._tracing import as_unsupported, chain_of, refuse_fixed_batch
from toolkit.errors import Unsupported, headline

OPSET = 18
_NO_METADATA: Mapping[str, str] = MappingProxyType({})
_STACK_TRACE = "stack_trace"  # the end of the key of torch's metadata


def write_onnx(
    model: nn.Module, example: Tensor, path: Path, *, metadata: Mapping[str, str] = _NO_METADATA
) -> int:
    """Write `model`, traced on `example`, to `path`, and check it; return the opset.

    Its input is named `input`, its output `logits`; the batch is dynamic.

    Raises:
        Unsupported: torch.export cannot take the model.
        onnx.checker.ValidationError: torch wrote a file that is not valid ONNX.
    """
    import onnx

    with (
        as_unsupported(model, example),
        _translated(),
        _quiet(),
        contextlib.redirect_stdout(sys.stderr),
    ):
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
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    refuse_fixed_batch(batch.dim_value if batch.HasField("dim_value") else None, model, example)
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        _forget_stack_traces(nodes)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return int(proto.opset_import[0].version)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn an operator that torch cannot translate to ONNX into `Unsupported`, with the first
    reason of torch's chain; its last one is `Failed to convert`."""
    try:
        yield
    except torch.onnx.errors.OnnxExporterError as error:
        chain = list(chain_of(error))
        if any(type(each).__name__ == "TorchExportError" for each in chain):
            raise  # the graph could not even be recorded
        raise Unsupported(
            f"torch cannot translate this model to ONNX: {headline(chain[-1])}",
            stderr_tail=traceback.format_exc(),
        ) from error


def _forget_stack_traces(nodes: Iterable[Any]) -> None:
    """Remove the stack traces of nodes, and of those in their subgraphs: they name files of this
    machine."""
    for node in nodes:
        kept = [each for each in node.metadata_props if not each.key.endswith(_STACK_TRACE)]
        if len(kept) < len(node.metadata_props):
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _forget_stack_traces(graph.node)


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
