"""Compare bench with other tools: OpenVINO's benchmark_app, LiteRT's litert-benchmark and
pytest-benchmark.

All measure one artifact with the same threads, in alternating runs.

    python benchmarks/agreement.py --runs 10 --out agreement.jsonl

One line per run is written to `--out`; an existing file is continued.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.native_tools import benchmark_app, litert_benchmark
from toolkit.artifacts.export import export
from toolkit.machine.environment import usable_cores
from toolkit.measurement.bench import bench
from toolkit.measurement.plan import Plan
from toolkit.settings import SessionOptions

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent / "models" / "mnist-cnn"
BATCH_SIZE = 100
RUNTIMES = {"openvino": "onnx", "onnxruntime": "onnx", "litert": "litert"}  # → format
SECONDS = 4
CALLS = 300

Reading = Callable[[], float]


def bench_s(model: Path, runtime: str, threads: int) -> float:
    """Return the median latency of a batch in seconds, measured by `toolkit bench` alone."""
    results = bench(
        [model],
        checkpoint=CHECKPOINT,
        runtimes=[runtime],
        session=SessionOptions(threads=threads),
        plan=Plan(min_time_s=SECONDS, min_rounds=10, passes=2),
    )
    row = next(row for row in results.measurements if row.runtime == runtime)
    value = row.latency_s[0].value
    assert value is not None, row.reason
    return value


def pytest_benchmark_s(runtime: str, threads: int) -> float:
    """Return the median latency of a batch in seconds, as written by pytest-benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        name = f"test_inference[{runtime}-{RUNTIMES[runtime]}-{threads}]"
        command = [sys.executable, "-m", "pytest", "-q", f"{HERE / 'test_inference.py'}::{name}"]
        subprocess.run(
            [*command, f"--benchmark-json={found}"], check=True, capture_output=True, text=True
        )
        return float(json.loads(found.read_text())["benchmarks"][0]["stats"]["median"])


def readings(model: Path, runtime: str, threads: int) -> dict[str, Reading]:
    """Return the function of each tool that can measure this runtime, by name."""
    found: dict[str, Reading] = {
        "toolkit bench": lambda: bench_s(model, runtime, threads),
        "pytest-benchmark": lambda: pytest_benchmark_s(runtime, threads),
    }
    if runtime == "openvino":
        found["benchmark_app"] = lambda: benchmark_app(
            model, batch_size=BATCH_SIZE, threads=threads, seconds=SECONDS
        )
    if runtime == "litert":
        file = model / f"batch-{BATCH_SIZE}.tflite"
        found["litert-benchmark"] = lambda: litert_benchmark(file, threads=threads, calls=CALLS)
    return found


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Return the median over runs of each tool's time divided by that of bench in the same run."""
    text = []
    for runtime in RUNTIMES:
        of_runtime = [line["median_s"] for line in lines if line["runtime"] == runtime]
        for tool in (name for name in of_runtime[0] if name != "toolkit bench"):
            ratios = sorted(each[tool] / each["toolkit bench"] for each in of_runtime)
            text.append(
                f"{runtime}: {tool} / toolkit bench = {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} runs)"
            )
    return "\n".join(text)


@click.command()
@click.option("--runs", type=int, default=10, show_default=True)
@click.option(
    "--threads",
    type=click.Choice([1, usable_cores()]),  # values that test_inference.py supports
    default=usable_cores(),
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(runs: int, threads: int, out: Path) -> None:
    """Alternate the tools `runs` times, and report how their medians compare."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        export(CHECKPOINT, out=Path(folder), formats=list(dict.fromkeys(RUNTIMES.values())))
        with out.open("a") as file:
            for number in range(len(lines), runs * len(RUNTIMES)):
                runtime = list(RUNTIMES)[number % len(RUNTIMES)]
                model = next(Path(folder).glob(f"*.{RUNTIMES[runtime]}"))
                tools = list(readings(model, runtime, threads).items())
                turn = number // len(RUNTIMES) % len(tools)  # the first tool changes
                found = {name: read() for name, read in tools[turn:] + tools[:turn]}
                lines.append({"runtime": runtime, "threads": threads, "median_s": found})
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                print(number + 1, runtime, found, file=sys.stderr)
    print(summary(lines))


if __name__ == "__main__":
    main()
