"""The runtimes' own benchmark programs, for comparison with `toolkit bench`.

In: an artifact and settings. Out: the program's measurement of the same work.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_START_S = 120
_UNITS_S = {"ms": 1e-3, "us": 1e-6}

# The runtime's module disables OpenVINO's telemetry here too.
_BENCHMARK_APP = """
import toolkit.sessions.runtimes.openvino
from openvino.tools.benchmark.main import main
main()
"""


def benchmark_app(model: Path, *, batch_size: int, threads: int, seconds: int) -> float:
    """Return the median latency of a batch in seconds, measured by OpenVINO's own benchmark_app.

    It corresponds to `latency_median_s` of `toolkit bench --runtime openvino`: one call at a time,
    one stream, float32, threads not pinned, the batch fixed. benchmark_app times only the
    inference, on one random input that is ready in memory. The toolkit's call also passes the input
    and copies the logits out, through Python.

    Raises:
        RuntimeError: It failed, ran with other settings, or printed no median.
    """
    arguments = {
        "-m": model,
        "-d": "CPU",
        "-hint": "none",  # required if streams, threads or pinning are set by hand
        "-api": "sync",
        "-nstreams": 1,
        "-nthreads": threads,
        "-pin": "NO",
        "-infer_precision": "f32",
        "-layout": "[NCHW]",  # tells `-b` where the batch is
        "-b": batch_size,
        "-t": seconds,
    }
    command = [sys.executable, "-c", _BENCHMARK_APP]
    command += [str(part) for pair in arguments.items() for part in pair]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_START_S + seconds
    )
    attested = (
        f"INFERENCE_NUM_THREADS: {threads}\n",
        "INFERENCE_PRECISION_HINT: <Type: 'float32'>\n",
        f"Model batch size: {batch_size}\n",
    )
    median = re.search(r"Median: +([\d.]+) (ms|us)\n", done.stdout)
    if done.returncode or median is None or not all(line in done.stdout for line in attested):
        raise RuntimeError(
            f"benchmark_app, exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return float(median[1]) * _UNITS_S[median[2]]


def litert_benchmark(model: Path, *, threads: int, calls: int) -> float:
    """Return the median latency in seconds of the `.tflite` file's own batch, measured by LiteRT's
    litert-benchmark.

    It corresponds to `latency_median_s` of `toolkit bench --runtime litert`, but calls LiteRT
    through its newer CompiledModel, on one random input that is ready in memory, and does not copy
    the logits out.

    Raises:
        RuntimeError: It failed, or did not run on the CPU alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [str(Path(sys.executable).parent / "litert-benchmark"), f"--model={model}"]
        command += [
            f"--num_threads={threads}",
            f"--num_runs={calls}",
            f"--warmup_runs={calls // 5}",
        ]
        done = subprocess.run(
            [*command, f"--result_json={result}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S + calls,
        )
        if done.returncode or not result.exists():
            raise RuntimeError(
                f"litert-benchmark, exit code {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        found = json.loads(result.read_text())
    if found["accelerators"] != ["CPU"]:
        raise RuntimeError(f"litert-benchmark ran on {found['accelerators']}")
    return float(found["latency"]["median_ms"]) * _UNITS_S["ms"]
