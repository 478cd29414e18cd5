"""The parts of `benchmarks/on_gpu`: each runs programs of the toolkit and returns plain values.

In: a `Run` with the folders, the device and the remaining time. Out: a dictionary for on_gpu.json.
If a program fails or takes too long, the dictionary has a text under `error`; its part and the
other parts continue.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.timing import Stopwatch

REPOSITORY = Path(__file__).parent.parent
CHECKPOINT = REPOSITORY / "models" / "mnist-cnn"
TORCH_RUNTIMES = ("eager", "cudagraph", "torchscript", "torchscript-frozen", "pt2", "compile")
RUNTIMES = (*TORCH_RUNTIMES, "onnxruntime")
ON_BOTH = ("eager", "torchscript", "onnxruntime")  # for a test run on the CPU
SEEDS = 10
_TAIL = 600

Part = Callable[["Run"], dict[str, Any]]


@dataclass(kw_only=True)
class Run:
    """The folders, the device and the time limit of a run, in seconds from its start.

    `passes` is the number of processes per runtime in the benchmark, `kills` the number of killed
    trainings.
    """

    out: Path
    scratch: Path
    device: str
    limit_s: float
    passes: int
    kills: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def left_s(self) -> float:
        """Return the seconds until everything must have ended."""
        return self.limit_s - self.watch.elapsed_s()

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Return the runtimes that each part tests."""
        return RUNTIMES if self.device == "cuda" else ON_BOTH

    @property
    def exports(self) -> Path:
        """Return the folder of the artifacts in float32."""
        return self.scratch / "exports"

    @property
    def narrow_exports(self) -> Path:
        """Return the folder of the artifacts in other precisions."""
        return self.scratch / "narrow"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished program: its exit code (None: it took too long), its output and its duration."""

    code: int | None
    stdout: str
    stderr: str
    wall_s: float

    @property
    def error(self) -> str:
        """Return the reason of a failure, with the end of the output."""
        if self.code is None:
            return f"took longer than {self.wall_s:.0f} s; {self.stderr[-_TAIL:].strip()}"
        return f"exit code {self.code}: {(self.stderr or self.stdout)[-_TAIL:].strip()}"

    def json(self) -> dict[str, Any] | None:
        """Return the JSON object on stdout; None if there is none."""
        try:
            found = json.loads(self.stdout)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def environment(run: Run, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of all programs: this repository's toolkit, and a separate cache."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(run.scratch / "cache"),
        **(more or {}),
    }


def python(
    run: Run, *arguments: object, limit_s: float, more: Mapping[str, str] | None = None
) -> Done:
    """Run Python with these arguments. Stop after `limit_s` seconds, or when the time is up."""
    watch = Stopwatch()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(run, more),
    )
    try:
        stdout, stderr = process.communicate(timeout=max(1.0, min(limit_s, run.left_s)))
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        process.terminate()
        stdout, stderr = process.communicate()
        code = None
    return Done(code=code, stdout=stdout, stderr=stderr, wall_s=watch.elapsed_s())


def toolkit(
    run: Run, *arguments: object, limit_s: float, more: Mapping[str, str] | None = None
) -> Done:
    """Run the command line."""
    return python(run, "-m", "toolkit", *arguments, limit_s=limit_s, more=more)


def _program(name: str) -> tuple[str, ...]:
    """Return Python's arguments that start a program of `benchmarks/gpu_programs.py`."""
    return ("-m", "benchmarks.gpu_programs", name)


def side_by_side(tasks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Run all tasks at the same time; return their results by name."""
    with ThreadPoolExecutor(max(1, len(tasks))) as pool:
        futures = {name: pool.submit(task) for name, task in tasks.items()}
        return {name: future.result() for name, future in futures.items()}


_NVIDIA_SMI = "driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw"


def card(run: Run) -> dict[str, Any]:
    """Return the card, its driver, its idle clock, and versions."""
    done = python(run, *_program("card"), limit_s=60)
    found = done.json() or {"error": done.error}
    try:
        text = subprocess.check_output(
            ["nvidia-smi", f"--query-gpu={_NVIDIA_SMI}", "--format=csv,noheader"],
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {**found, "nvidia-smi": f"missing: {error}"}
    values = [each.strip() for each in text.splitlines()[0].split(",")]
    return {**found, **dict(zip(_NVIDIA_SMI.split(","), values, strict=True))}


def export(run: Run) -> dict[str, Any]:
    """Write the artifacts that the other parts load."""
    names = ("torchscript", "pt2", "onnx")
    formats = [each for name in names for each in ("--format", name)]
    narrow = [each for name in ("fp16", "int8", "int8-dynamic") for each in ("--precision", name)]
    done: dict[str, Done] = side_by_side(
        {
            "fp32": lambda: toolkit(
                run, "export", CHECKPOINT, "--out", run.exports, *formats, limit_s=120
            ),
            "narrow": lambda: toolkit(
                run,
                *("export", CHECKPOINT, "--out", run.narrow_exports, "--format", "onnx", *narrow),
                limit_s=120,
            ),
        }
    )
    return {name: "written" if each.code == 0 else each.error for name, each in done.items()}


def by_hand(run: Run) -> dict[str, Any]:
    """Compare sessions with direct calls, and measure the GPU's own time. All processes load at the
    same time, then measure one after another."""
    script = REPOSITORY / "benchmarks" / "gpu_by_hand.py"
    waiting = {name: _start(run, script, name, run.exports) for name in run.runtimes}
    for process in waiting.values():
        assert process.stdout is not None
        process.stdout.readline()  # ready or ended
    rows = {}
    for name, process in waiting.items():
        try:
            stdout, stderr = process.communicate("go\n", timeout=max(1.0, min(60, run.left_s)))
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
        try:
            rows[name] = json.loads(stdout)
        except ValueError:
            last = (stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            rows[name] = {"error": last, "stderr": stderr[-_TAIL:]}
    return {"rows": rows}


def _start(run: Run, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(run),
    )


def bench(run: Run) -> dict[str, Any]:
    """Measure images/s of each runtime from host memory to host memory, in interleaved rounds."""
    out = run.out / "bench"
    done = python(
        run,
        *_program("bench"),
        run.exports,
        run.device,
        run.passes,
        out,
        *run.runtimes,
        limit_s=290,
    )
    if not (out / "results.json").exists():
        return {"error": done.error}
    results = json.loads((out / "results.json").read_text())
    rows = {
        f"{each['runtime']} {each['precision']}": {
            "status": each["status"],
            "reason": each["reason"],
            "images_per_s": each["images_per_s"],
            "passes": len(each["passes"]),
            "limit_share": each["limit_share"],
        }
        for each in results["measurements"]
        if each["runtime"] != "no-op"
    }
    error = {} if done.code == 0 else {"error": done.error}
    return {"rows": rows, "limits": results["limits"], **error}


def train(run: Run) -> dict[str, Any]:
    """Run the command twice, each time in a new process. The first run reads files from the
    disk."""
    rows: list[dict[str, Any]] = []
    for number in (1, 2):
        out = run.scratch / f"trained-{number}"
        done = toolkit(run, "train", "--device", run.device, "--out", out, "--json", limit_s=90)
        record = done.json() or {}
        if done.code != 0 or "training" not in record:
            rows.append({"error": done.error})
            continue
        training = record["training"]
        rows.append(
            {
                "process_s": done.wall_s,
                "training_s": training["wall_s"],
                "accuracy": training["accuracy"],
                "sha256": record["sha256"],
            }
        )
    return {"rows": rows, "same_bytes": len({each.get("sha256") for each in rows}) == 1}


def seeds(run: Run) -> dict[str, Any]:
    """Measure the accuracy over seeds, and the time of a training in a process that has trained
    before."""
    count = SEEDS if run.device == "cuda" else 1
    done = python(run, *_program("seeds"), run.device, count, limit_s=90)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    if len(rows) < count:
        return {"rows": rows, "error": done.error}
    accuracies = [accuracy for _, accuracy, _ in rows]
    return {
        "rows": rows,
        "mean": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies) if count > 1 else 0.0,
        "first_s": rows[0][2],
        "later_s": statistics.median(wall_s for _, _, wall_s in rows[1:]) if count > 1 else None,
    }


def kills(run: Run) -> dict[str, Any]:
    """Check that killed and resumed trainings give the same bytes as an uninterrupted one."""
    script = REPOSITORY / "benchmarks" / "kills.py"
    options = ("--kills", run.kills, "--device", run.device, "--in-steps")
    done = python(run, script, *options, limit_s=150)
    last = done.stdout.strip().splitlines()
    return {"text": last[-1]} if last else {"error": done.error}


def parity(run: Run) -> dict[str, Any]:
    """Verify each runtime on all test images; the first call caches the reference for the
    others."""
    first, *others = [[name] for name in run.runtimes]
    found = {"first": _verify(run, run.exports, first)}
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "-".join(names): partial(_verify, run, run.exports, names) for names in others
    }
    tasks["narrow"] = lambda: _verify(run, run.narrow_exports, ["onnxruntime"])
    found |= side_by_side(tasks)
    rows = [row for each in found.values() for row in each.get("rows", [])]
    errors = [each["error"] for each in found.values() if "error" in each]
    return {"rows": rows, **({"error": "; ".join(errors)} if errors else {})}


def _verify(run: Run, exports: Path, runtimes: Sequence[str]) -> dict[str, Any]:
    named = [each for name in runtimes for each in ("--runtime", name)]
    done = toolkit(
        run,
        *("verify", exports, "--device", run.device, "--threads", "4", "--json", *named),
        limit_s=150,
    )
    record = done.json() or {}
    if "parity" not in record:
        return {"error": f"{', '.join(runtimes)}: {done.error}"}
    kept = ("runtime", "format", "precision", "status", "reason", "compared", "flips",
            "max_abs_diff", "max_diff_in_floors", "accuracy", "allowance")  # fmt: skip
    return {
        "rows": [
            {
                **{name: row[name] for name in kept},
                "arithmetic": (row["session"] or {}).get("arithmetic"),
                "provider": (row["session"] or {}).get("provider"),
            }
            for row in record["parity"]
        ]
    }


def contract(run: Run) -> dict[str, Any]:
    """Run the contract suite's rows on CUDA, one process per runtime, and the tests that need
    CUDA."""
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(_pytest, run, "tests/test_contract.py", "-k", _rows_of(name))
        for name in (*run.runtimes, "no-op")
    }
    tasks["calls"] = lambda: _pytest(
        run, "tests/sessions/test_torch_calls.py", "tests/sessions/test_cuda.py"
    )
    found = side_by_side(tasks)
    counts: dict[str, int] = {}
    for each in found.values():
        for name, count in each["counts"].items():
            counts[name] = counts.get(name, 0) + count
    return {"counts": counts, "by_runtime": found}


def _rows_of(runtime: str) -> str:
    """Return the expression for pytest's -k."""
    if runtime == "torchscript":
        return "cuda and torchscript and not frozen"
    return "cuda and frozen" if runtime == "torchscript-frozen" else f"cuda and {runtime}"


def _pytest(run: Run, *arguments: str) -> dict[str, Any]:
    """Return the counts of all tests that ended: pytest prints a line as soon as a test ends."""
    options = ("-v", "-p", "no:benchmark", "-p", "no:cacheprovider", "--tb=short")
    unbuffered = {"PYTHONUNBUFFERED": "1"}
    done = python(run, "-m", "pytest", *options, *arguments, limit_s=240, more=unbuffered)
    ended = re.findall(r"^(\S+::.*) (PASSED|FAILED|SKIPPED|ERROR)\b", done.stdout, re.MULTILINE)
    counts: dict[str, int] = {}
    for _, word in ended:
        counts[word.lower()] = counts.get(word.lower(), 0) + 1
    failed = [f"{word} {name}" for name, word in ended if word in ("FAILED", "ERROR")]
    if done.code is None or not ended:
        failed.append(f"pytest {' '.join(arguments)} {done.error[:_TAIL]}")
    reports = done.stdout[done.stdout.find("= FAILURES") :] if failed else ""
    return {"counts": counts, "failed": failed, "reports": reports, "wall_s": done.wall_s}


def faults(run: Run) -> dict[str, Any]:
    """Run the short version of the planted faults and healthy variants."""
    done = python(
        run,
        *("-m", "tests.faults", "--device", run.device, "--short", "--images", "300"),
        limit_s=200,
    )
    lines = done.stdout.strip().splitlines()
    return {"lines": lines} if done.code == 0 else {"lines": lines, "error": done.error}


def bad_input(run: Run) -> dict[str, Any]:
    """Return the error messages without a device, or without a library."""
    runtimes = ("eager", "cudagraph", "onnxruntime")

    def load(visible: str) -> list[str]:
        hidden = {"CUDA_VISIBLE_DEVICES": visible}
        done = python(run, *_program("load"), run.exports, *runtimes, limit_s=90, more=hidden)
        return done.stdout.splitlines() or [done.error]

    def untrained() -> list[str]:
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        out = run.scratch / "untrained"
        done = toolkit(run, "train", "--device", "cuda", "--out", out, limit_s=60, more=hidden)
        return [f"train: exit code {done.code}: {done.stderr.strip()}"]

    def without_libraries() -> list[str]:
        done = python(run, *_program("without_libraries"), run.exports, limit_s=60)
        return done.stdout.splitlines() or [done.error]

    return side_by_side(
        {
            "CUDA_VISIBLE_DEVICES=": lambda: [*load(""), *untrained()],
            "CUDA_VISIBLE_DEVICES=9": lambda: load("9"),
            "NVIDIA's packages hidden": without_libraries,
        }
    )
