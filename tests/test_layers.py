"""Reads the imports and keeps the layers: down only, no siblings, one clock, a light start."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from toolkit.runtimes import RUNTIMES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "toolkit"

# From the bottom to the top. A module imports from layers below its own only. A new module gets
# a place here; a new format or runtime has one already.
LAYERS = (
    ("schema.words", "schema.json", "schema.model", "schema.machine"),
    ("schema.artifact", "schema.session"),
    ("schema.parity", "schema.measurement"),
    ("schema.scenario",),
    ("schema.results", "schema.comparison", "schema.tuning"),
    ("schema", "versions", "timing", "progress", "options", "report", "allocator", "numerics"),
    (
        "machine",
        "machine.gpu_state",
        "measuring",
        "contents",
        "report.parity",
        "measuring.difference",
    ),
    (
        "errors",
        "machine.environment",
        "contents.protobuf",
        "measuring.stats",
        "measuring.regressions",
        "preprocessing",
        "report.machine",
        "report.summary",
        "causes.symptoms",
        "causes.graphs",
        "causes.stored",
        "causes.operators",
        "causes.rounding",
    ),
    (
        "measuring.samples",
        "measuring.ranking",
        "tuning.pareto",
        "files",
        "machine.interference",
        "machine.limits",
        "machine.cuda_context",
        "settings",
        "rounding",
        "clipping",
        "apart",
        "model",
        "onnx_export",
        "torch_arithmetic",
        "torch_calls",
        "cuda_libraries",
        "torchscript_graph",
        "contents.onnx",
        "contents.executorch",
        "machine.compiler",
        "contents.mnn",
        *("causes.order", "causes.outputs", "causes.linear", "causes.places", "causes.changes"),
        *("causes.inputs", "causes.tensors", "causes.quantised"),
    ),
    ("parity", "parity.gates", "parity.bounds", "parity.reference"),
    (
        "parity.verdict",
        "torch_session",
        "torch_rounding",
        "onnx_pairs",
        "outcome",
        "measuring.speeds",
        "machine.gpu_limits",
        "machine.gpu_watch",
        "measuring.plan",
        "changes",
        "names",
        *("causes.logits", "causes.experiments", "causes.onnx_file", "causes.apart"),
    ),
    (
        *("measuring.loadgen", "report.scenario", "machine.fitness", "machine.capacity"),
        *("onnx_rounding", "openvino_rounding"),
    ),
    ("formats", "runtimes", "report.table", "report.csv", "report.markdown", "comparison"),
    ("onnx_session",),
    ("formats.*", "runtimes.*", "manifest", "checkpoint", "report.comparison"),
    ("report.tuning",),
    ("data.idx", "data.images"),
    ("data.folder", "data.statistics", "parity.special"),
    ("data", "candidates", "machine.diagnosis", "worker", "exporting"),
    ("calibration", "parity.labels", "quantisation"),
    ("artifacts",),
    ("results", "targets", "training.dropout", "training.processes", "training.recipe"),
    ("training.generators", "training.optimizers"),
    ("training.augmentation", "training.memory", "training.order", "training.feed"),
    ("training.state", "training.diary", "training.step"),
    ("training.loop", "training.warmup"),
    ("training",),
    ("reference", "measuring.passes", "report.folder", "parity.second_look", "causes"),
    ("parity.expected",),
    ("parity.check",),
    ("measuring.conclusions", "verification"),
    ("measuring.scenarios",),
    ("benchmark", "tuning.trials"),
    ("tuning.finals",),
    ("tuning",),
    ("pipeline",),
    ("",),  # toolkit/__init__.py: the steps, by name
    ("commands", "commands.shared"),
    ("commands.*",),
    ("cli",),
    ("__main__",),
)
# Beside torch and numpy, which the toolkit itself stands on.
RUNTIME_PACKAGES = sorted({row.package for row in RUNTIMES.values()} - {"torch", "numpy"})
NEEDS_TORCH = (
    *("training", "model", "torch_session", "onnx_export", "artifacts", "torch_rounding"),
    *("torch_arithmetic", "torch_calls", "torchscript_graph"),
    *("causes.changes", "causes.experiments", "causes.rounding", "causes.onnx_file"),
    *("formats.*", "training.*"),
    *("causes.changes", "causes.operators", "causes.rounding", "causes.experiments"),
)
CLOCKS = {"time", "datetime", "timeit", "sched"}
CLOCK_CALLS = {
    *("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time"),
    *("process_time_ns", "thread_time", "thread_time_ns", "time_ns", "clock_gettime"),
    *("clock_gettime_ns", "utcnow", "timeit", "default_timer"),
}


def name_of(path: Path) -> str:
    """`data.idx` for `toolkit/data/idx.py`, `data` for `toolkit/data/__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def layer_of(name: str) -> int:
    exact = [number for number, layer in enumerate(LAYERS) if name in layer]
    by_pattern = [
        number
        for number, layer in enumerate(LAYERS)
        if any("*" in entry and fnmatch(name, entry) for entry in layer)
    ]
    found = exact or by_pattern
    assert len(found) == 1, f"toolkit.{name} must have one place in LAYERS, it has {found}"
    return found[0]


def early(body: list[ast.stmt], *, types: bool) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; with `types`, those for the type checker
    too. Function bodies run later."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from early(statement.body if types else statement.orelse, types=types)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from early(getattr(statement, field, []), types=types)
        for handler in getattr(statement, "handlers", []):
            yield from early(handler.body, types=types)


def imported(statements: Iterator[ast.stmt] | Iterator[ast.AST]) -> set[str]:
    """Full names of all modules imported, `from package import module` resolved."""
    names = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = str(node.module)
            inside = {f"{module}.{alias.name}" for alias in node.names}
            modules = {f"toolkit.{name}" for name in MODULES if name}
            names |= (inside & modules) or {module}
    return names


def own_imports(name: str, *, types: bool = False) -> set[str]:
    """Modules of the toolkit that `name` imports early; the facade is the empty name."""
    found = imported(early(TREES[name].body, types=types))
    return {
        module.removeprefix("toolkit").removeprefix(".")
        for module in found
        if module.partition(".")[0] == "toolkit"
    }


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name: str) -> None:
    """Imports for the type checker count too, but in the facade, whose names they are."""
    for other in own_imports(name, types=name != ""):
        if other.startswith(f"{name}."):  # a package and its own parts
            continue
        assert layer_of(other) < layer_of(name), f"toolkit.{name} imports toolkit.{other}"


def test_every_layer_has_its_modules() -> None:
    for entry in (entry for layer in LAYERS for entry in layer):
        assert any(fnmatch(name, entry) for name in MODULES), f"no module {entry}"
    assert all(layer_of(name) >= 0 for name in MODULES)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.startswith(("formats.", "runtimes."))]
)
def test_formats_and_runtimes_import_no_sibling(name: str) -> None:
    """Not even inside a function; and a format knows no runtime, nor a runtime a format."""
    other_table = "toolkit.runtimes" if name.startswith("formats.") else "toolkit.formats"
    for other in imported(ast.walk(TREES[name])):
        assert not other.startswith(("toolkit.formats.", "toolkit.runtimes.")), other
        assert other != other_table


@pytest.mark.parametrize("name", MODULES)
def test_only_the_torch_side_imports_torch_early(name: str) -> None:
    roots = {module.partition(".")[0] for module in imported(early(TREES[name].body, types=False))}
    if not any(fnmatch(name, entry) for entry in NEEDS_TORCH):
        assert not roots & {"torch", "torchvision"}
    if not fnmatch(name, "formats.*"):
        assert not roots & {"onnx", "onnxscript", *RUNTIME_PACKAGES}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "timing"])
def test_only_timing_reads_a_clock(name: str) -> None:
    nodes = list(ast.walk(TREES[name]))
    assert not imported(iter(nodes)) & CLOCKS
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not used & CLOCK_CALLS


def python(code: str) -> str:
    """What a fresh interpreter prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip().splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["runtimes"]])
def test_help_and_the_tables_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from toolkit.cli import commands
try:
    commands({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
heavy = "torch", "torchvision", "onnx", "onnxscript", "numpy", "scipy", "execnet"
heavy += tuple({RUNTIME_PACKAGES!r})
print("heavy:", *(name for name in heavy if name in sys.modules))
"""
    assert python(code) == "heavy:"


def test_importing_the_toolkit_imports_nothing_else() -> None:
    code = "import sys, toolkit; print(*(n for n in sys.modules if n.startswith('toolkit')))"
    assert python(code) == "toolkit"


def test_every_module_imports_without_any_runtime_installed() -> None:
    """But for formats, which are made of their libraries; `__main__` would run the command."""
    others = [name for name in MODULES if not name.startswith("formats.")]
    wanted = [f"toolkit.{name}" for name in others if name not in ("", "__main__")]
    code = f"""
import importlib, sys
for name in ("onnx", "onnxscript", *{RUNTIME_PACKAGES!r}):
    sys.modules[name] = None
for name in {wanted!r}:
    importlib.import_module(name)
print("imported")
"""
    assert python(code) == "imported"
