"""The programs that `benchmarks/gpu_parts.py` starts, each in a process of its own.

    python -m benchmarks.gpu_programs card

In: the name of a function and its arguments. Out: what it prints.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import toolkit
from toolkit.errors import FailedRun
from toolkit.measurement.plan import Plan
from toolkit.schema import Settings
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import _cuda_libraries, import_loader


def card() -> None:
    """Print the card and the versions as JSON."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    try:
        import torch

        found |= {"torch": torch.__version__, "cuda": torch.version.cuda}
        if torch.cuda.is_available():
            memory_bytes = torch.cuda.get_device_properties(0).total_memory
            found |= {"card": torch.cuda.get_device_name(), "memory_bytes": memory_bytes}
            found |= {"cudnn": torch.backends.cudnn.version()}
    except ImportError as error:
        found["torch"] = f"missing: {error}"
    try:
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
        found["providers"] = onnxruntime.get_available_providers()
    except ImportError as error:
        found["onnxruntime"] = f"missing: {error}"
    print(json.dumps(found))


def bench(exports: str, device: str, passes: str, out: str, *runtimes: str) -> None:
    """Measure runtimes, and write the results to `out`."""
    count = int(passes)
    plan = Plan(passes=count, min_rounds=max(6, 6 * count), min_time_s=0.6 * count, max_time_s=280)
    toolkit.bench(
        [Path(exports)],
        runtimes=runtimes,
        session=toolkit.SessionOptions(
            device="cuda" if device == "cuda" else "cpu", threads=4, timeout_s=120
        ),
        plan=plan,
        out=Path(out),
        progress=lambda *told: print(*told, file=sys.stderr, flush=True),
    )


def seeds(device: str, count: str) -> None:
    """Train with each seed; print a line `[seed, accuracy, seconds]` for each."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, int(count) + 1):
            done = toolkit.train(
                out=Path(folder) / str(seed),
                device="cuda" if device == "cuda" else "cpu",
                seed=seed,
            )
            if done.training is not None:
                print(json.dumps([seed, done.training.accuracy, done.training.wall_s]), flush=True)


def load(exports: str, *runtimes: str) -> None:
    """Load each runtime on CUDA in a worker; print what happens."""
    for name in runtimes:
        with RemoteSession(_on_cuda(exports, name), batch_size=1, timeout_s=100) as session:
            try:
                session.load()
                print(f"{name}: loaded")
            except FailedRun as failure:
                print(f"{name}: {failure.status}: {failure.reason}")


def without_libraries(exports: str) -> None:
    """Load ONNX Runtime on CUDA in this process, with NVIDIA's packages hidden."""
    _cuda_libraries.library_folders = list
    candidate = _on_cuda(exports, "onnxruntime")
    row = candidate.runtime
    try:
        loader = import_loader(row.module, row.package, row.install)
        loader.load(candidate.source, candidate.settings)
        print("onnxruntime: loaded")
    except FailedRun as failure:
        print(f"onnxruntime: {failure.status}: {failure.reason}")


def _on_cuda(exports: str, runtime: str) -> Candidate:
    subject = find_subject([Path(exports)], checkpoint=None, model=None)
    return find_candidates(subject, [runtime], Settings(threads=1, device="cuda"))[0]


PROGRAMS = {each.__name__: each for each in (card, bench, seeds, load, without_libraries)}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
