"""ExecuTorch: one `.pte` program for batches up to `LARGEST_BATCH`, computed by the XNNPACK
delegate.

The memory of the program is planned for the largest batch.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._tracing import export_program
from toolkit.artifacts.rounding.number_formats import error_of_evaluation
from toolkit.artifacts.rounding.torch_model import logits_of
from toolkit.schema import ExpectedError, Inputs

LARGEST_BATCH = 256

# With fewer than 16 images, torch chooses another convolution and records `batch < 16` (seen in
# 2.14); ExecuTorch then takes 15 as the largest batch.
_TRACED_BATCH = 16
_CALIBRATION_BATCH = 100
_GELU = torch.ops.aten.gelu.default
_LAYERS = (
    torch.ops.aten.linear.default,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.conv_transpose2d.input,
)


def export(request: Request) -> Written:
    """Write the program; int8 has static ranges, and weights with one scale per channel.

    XNNPACK's sums of int8 products do not saturate: without VNNI, it widens to 16 bits first
    (src/qs8-gemm/MRx8c8-avx2.c.in). The arithmetic is therefore exact on all instruction sets.
    """
    copies = -(-_TRACED_BATCH // len(request.example))
    example = request.example.repeat(copies, 1, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, expected = _traced(request.model, example), None
        if request.precision == "int8":
            quantised = _quantised(program, request.calibration)
            expected = _expected_error(quantised, request)
            program = _traced(quantised, example)
        request.path.write_bytes(_lowered(program))
    return Written(expected_error=expected)


def _expected_error(quantised: GraphModule, request: Request) -> ExpectedError | None:
    if request.measured is None:
        return None
    return error_of_evaluation(
        logits_of(quantised, request.measured),
        logits_of(request.model, request.measured),
        method="the quantised program in eager PyTorch compared with the float32 model",
    )


def _traced(model: nn.Module, example: Tensor) -> ExportedProgram:
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    program = export_program(model, example, batch=batch)
    if any(_is_tanh_gelu(node) for node in program.graph.nodes):
        program = program.run_decompositions({_GELU: _spelled_out})
    return program


def _is_tanh_gelu(node: Node) -> bool:
    return bool(node.target is _GELU and node.kwargs.get("approximate") == "tanh")


def _spelled_out(x: Tensor, approximate: str = "none") -> Any:
    """Replace the approximate GELU (https://arxiv.org/abs/1606.08415, section 2) by operators that
    XNNPACK has. Its delegate also takes `gelu`, but ignores `approximate` and computes the exact
    one, up to 4.7e-4 away (seen in 1.5.1, backends/xnnpack/operators/op_gelu.py)."""
    if approximate == "none":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _lowered(program: ExportedProgram) -> bytes:
    """Return the program's file. The input is not copied at each call."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    planning = MemoryPlanningPass(alloc_graph_input=False)
    config = ExecutorchBackendConfig(memory_planning_pass=planning)
    return bytes(edge.to_executorch(config).buffer)


def _quantised(program: ExportedProgram, calibration: Inputs) -> GraphModule:
    """Return the program with int8 layers, except those that produce the logits: rounded to the 256
    steps of an int8 output, the logits would not be those of the model."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    kept = cache(float_nodes)
    quantizer.set_filter_function(lambda node: node not in kept(node.graph))
    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    with torch.inference_mode():
        for start in range(0, len(calibration), _CALIBRATION_BATCH):
            prepared(torch.from_numpy(calibration[start : start + _CALIBRATION_BATCH]))
    quantised: GraphModule = convert_pt2e(prepared)
    return quantised


def float_nodes(graph: Graph) -> set[Node]:
    """Return the layers that produce the logits, and what follows them; none if the model has no
    other layers."""
    found: set[Node] = set()
    waiting = graph.output_node().all_input_nodes
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node.target not in _LAYERS:
                waiting.extend(node.all_input_nodes)
    others = any(node.target in _LAYERS and node not in found for node in graph.nodes)
    return found if others else set()
