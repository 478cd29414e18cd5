"""The expected error of an int8 ONNX file, measured from the file alone.

In: a file with pairs of QuantizeLinear and DequantizeLinear, and inputs. Out: an `ExpectedError`;
see `toolkit.artifacts.rounding.number_formats.error_of_steps`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.rounding.clipping import Reach, limits_on_purpose
from toolkit.artifacts.rounding.number_formats import (
    MEASURED_IMAGES,
    NOISE_DRAWS,
    error_of_steps,
    images_per_call,
)
from toolkit.artifacts.rounding.onnx_pairs import QuantisedGraph, take_apart
from toolkit.schema import ExpectedError, Inputs

if TYPE_CHECKING:
    from onnx import ModelProto

# Otherwise ONNX Runtime sends telemetry about each session, from a separate thread (seen in 1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def measure(path: Path, inputs: Inputs, *, threads: int = 1) -> ExpectedError | None:
    """Return the expected error of an `.onnx` file on the first `MEASURED_IMAGES` of inputs
    `[N,C,H,W]`.

    None if the file rounds nothing, or does not use pairs. ONNX Runtime computes in this process.
    """
    import onnx

    graph = take_apart(onnx.load(path, load_external_data=False))
    if graph is None or len(inputs) == 0:
        return None
    inputs = inputs[:MEASURED_IMAGES]
    plain, reaches = evaluate_with_reaches(graph, inputs, threads=threads)
    opened, uncut = limits_on_purpose(reaches), None
    if opened is not None:
        uncut = evaluate(graph.without(opened).plain(), inputs, threads=threads)
    return error_of_steps(
        plain,
        evaluate(graph.rounded(), inputs, threads=threads),
        [evaluate(graph.plain(seed), inputs, threads=threads) for seed in range(NOISE_DRAWS)],
        uncut,
    )


def evaluate_with_reaches(
    graph: QuantisedGraph, inputs: Inputs, *, threads: int
) -> tuple[NDArray[np.floating], list[Reach]]:
    """Return logits `[N,K]` of the plain model, and how far each image reaches at each pair."""
    from onnx import TensorProto, helper

    model = graph.plain()
    names = [pair.source for pair in graph.pairs]
    there = {each.name for each in (*model.graph.input, *model.graph.output)}
    for name in dict.fromkeys(names):
        if name not in there:
            shown = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            model.graph.output.append(shown)
    logits: list[NDArray[np.floating]] = []
    extremes: list[list[tuple[NDArray[np.floating], ...]]] = [[] for _ in names]
    for values in _batches(model, inputs, threads=threads):
        logits.append(values[model.graph.output[0].name])
        for at, pair in enumerate(graph.pairs):
            extremes[at].append(pair.extremes(values[pair.source]))
    reaches = []
    for pair, found in zip(graph.pairs, extremes, strict=True):
        lowest, highest = (np.concatenate(each) for each in zip(*found, strict=True))
        limits = {"low": pair.low.reshape(-1), "high": pair.high.reshape(-1)}
        reaches.append(Reach(lowest=lowest, highest=highest, **limits))
    return np.concatenate(logits).astype(np.float64), reaches


def evaluate(model: ModelProto, inputs: Inputs, *, threads: int) -> NDArray[np.floating]:
    """Return logits `[N,K]` as float64, computed by ONNX Runtime without graph optimisation."""
    name = model.graph.output[0].name
    parts = [values[name] for values in _batches(model, inputs, threads=threads)]
    logits: NDArray[np.floating] = np.concatenate(parts).astype(np.float64)
    return logits


def _batches(
    model: ModelProto, inputs: Inputs, *, threads: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield inputs and outputs by name, some images at a time; a fixed batch is padded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    fixed = given.shape[0] if isinstance(given.shape[0], int) else None
    names = [each.name for each in session.get_outputs()]
    size = fixed or images_per_call(inputs)
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        filled = batch[np.arange(fixed or len(batch)) % len(batch)]
        outputs = session.run(names, {given.name: filled})
        values = {name: each[: len(batch)] for name, each in zip(names, outputs, strict=True)}
        yield {given.name: batch, **values}
