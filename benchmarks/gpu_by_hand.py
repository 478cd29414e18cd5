"""Compare a session on CUDA with direct calls of its runtime, and measure the GPU's own time.

    python benchmarks/gpu_by_hand.py eager EXPORTS

The script loads both, writes `ready`, and waits for a line on stdin, so that several processes can
load at the same time and then measure one after another. It writes one JSON object: medians of
alternating calls in seconds, and the seconds per call that the GPU spent in kernels and in copies
(from NVIDIA's CUPTI, through torch's profiler). `benchmarks/on_gpu` starts it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from toolkit.processes.numerics import pin
from toolkit.schema import Settings
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.runtimes import import_loader
from toolkit.timing import Stopwatch, time_calls

BATCH_SIZE = 100
PAIRS = 300
PROFILED = 50
WARM_UP_S = 0.7  # an idle GPU has a low clock
THREADS = 2

Batch = NDArray[np.float32]
Run = Callable[[Batch], NDArray[np.floating]]


def eager(candidate: Candidate) -> Run:
    """Return a call as usually advised: pinned memory, asynchronous copies, one wait at the end."""
    import torch

    from toolkit.checkpoints.storage import load_model

    model = load_model(candidate.source.path)[0].eval().cuda()
    shape = (BATCH_SIZE, *candidate.source.artifact.input_shape)
    pinned = torch.empty(shape, pin_memory=True)
    batch = torch.empty(shape, device="cuda")
    logits = torch.empty(BATCH_SIZE, candidate.source.artifact.classes, pin_memory=True)

    def run(inputs: Batch) -> NDArray[np.floating]:
        with torch.inference_mode():
            np.copyto(pinned.numpy(), inputs)
            batch.copy_(pinned, non_blocking=True)
            logits.copy_(model(batch), non_blocking=True)
            torch.cuda.current_stream().synchronize()
            return logits.numpy().copy()

    return run


def cudagraph(candidate: Candidate) -> Run:
    """Return a graph recorded as in torch's documentation, including the copies."""
    import torch

    from toolkit.checkpoints.storage import load_model

    model = load_model(candidate.source.path)[0].eval().cuda()
    shape = (BATCH_SIZE, *candidate.source.artifact.input_shape)
    pinned = torch.zeros(shape, pin_memory=True)
    batch = torch.zeros(shape, device="cuda")
    logits = torch.empty(BATCH_SIZE, candidate.source.artifact.classes, pin_memory=True)
    stream = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(stream)
    with torch.inference_mode():
        with torch.cuda.stream(side):
            for _ in range(3):
                model(batch)
        stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            batch.copy_(pinned, non_blocking=True)
            logits.copy_(model(batch), non_blocking=True)

    def run(inputs: Batch) -> NDArray[np.floating]:
        np.copyto(pinned.numpy(), inputs)
        graph.replay()
        stream.synchronize()
        return logits.numpy().copy()

    run.kept = model, batch  # type: ignore[attr-defined]  # the graph has only their addresses
    return run


def onnxruntime(candidate: Candidate) -> Run:
    """Return a session with the same settings as the toolkit's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = candidate.settings.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(candidate.source.path),
        options,
        providers=[
            (
                "CUDAExecutionProvider",
                {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
            )
        ],
    )

    def run(inputs: Batch) -> NDArray[np.floating]:
        logits: NDArray[np.floating] = session.run(None, {"input": inputs})[0]
        return logits

    return run


BY_HAND: dict[str, Callable[[Candidate], Run]] = {
    "eager": eager,
    "cudagraph": cudagraph,
    "onnxruntime": onnxruntime,
}


def find_candidate(runtime: str, exports: Path) -> Candidate:
    """Return the candidate of the runtime and its fp32 artifact."""
    subject = find_subject([exports], checkpoint=None, model=None)
    found = find_candidates(subject, [runtime], Settings(threads=THREADS, device="cuda"))
    return next(
        each
        for each in found
        if (each.source.artifact.precision, each.source.artifact.format == "ort") == ("fp32", False)
    )


def medians_s(sides: dict[str, Run], batches: list[Batch]) -> dict[str, float]:
    """Time `PAIRS` calls of each side in random order, each after one untimed call."""
    times_s: dict[str, list[float]] = {name: [] for name in sides}
    order = np.random.default_rng(1)
    for number in range(PAIRS):
        for name in order.permutation(list(sides)):
            turn = [batches[(number + 1) % len(batches)], batches[number % len(batches)]]
            (_, timed_ns), _ = time_calls(sides[name], turn, calls=2)
            times_s[name].append(timed_ns / 1e9)
    return {name: statistics.median(times) for name, times in times_s.items()}


def device_s(run: Run, batches: list[Batch]) -> dict[str, float]:
    """Return the seconds per call that the GPU spent in kernels, in copies to it, and in copies
    from it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for number in range(PROFILED):
            run(batches[number % len(batches)])
        torch.cuda.synchronize()
    sums = {"kernels_s": 0.0, "to_device_s": 0.0, "from_device_s": 0.0}
    for event in profiler.events():
        if not str(event.device_type).endswith("CUDA") or event.name.startswith("##"):
            continue  # not a GPU event, or a label of other events
        kind = "kernels_s"
        if "Memcpy HtoD" in event.name:
            kind = "to_device_s"
        elif "Memcpy DtoH" in event.name:
            kind = "from_device_s"
        sums[kind] += event.time_range.elapsed_us() / 1e6 / PROFILED
    return sums


def measure(sides: dict[str, Run], batches: list[Batch]) -> dict[str, Any]:
    """Return the output of `main`: times of the sides, the largest difference of their logits, and
    the GPU's own time."""
    logits = [run(batches[0]).copy() for run in sides.values()]
    watch = Stopwatch()
    while watch.elapsed_s() < WARM_UP_S:
        for run in sides.values():
            run(batches[0])
    found = medians_s(sides, batches)
    return {
        **{f"{name}_s": value for name, value in found.items()},
        "ratio": found["session"] / found["hand"] if "hand" in found else None,
        "difference": float(max(np.abs(each - logits[0]).max() for each in logits)),
        **device_s(sides["session"], batches),
    }


@click.command()
@click.argument("runtime")
@click.argument("exports", type=click.Path(path_type=Path))
def main(runtime: str, exports: Path) -> None:
    """Load RUNTIME from EXPORTS, wait for a line, and measure."""
    pin()  # before a library loads, as in every worker
    candidate = find_candidate(runtime, exports)
    row = candidate.runtime
    session = import_loader(row.module, row.package, row.install).load(
        candidate.source, candidate.settings
    )
    sides: dict[str, Run] = {"session": session.run}
    if runtime in BY_HAND:
        sides["hand"] = BY_HAND[runtime](candidate)
    random = np.random.default_rng(0)
    shape = (BATCH_SIZE, *candidate.source.artifact.input_shape)
    batches = [random.standard_normal(shape, np.float32) for _ in range(5)]
    for run in sides.values():
        for batch in batches:
            run(batch)
    print("ready", flush=True)
    sys.stdin.readline()
    arithmetic = session.attestation.arithmetic
    print(json.dumps({"runtime": runtime, "arithmetic": arithmetic, **measure(sides, batches)}))


if __name__ == "__main__":
    main()
