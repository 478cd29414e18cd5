"""Imports: the contracts of pyproject.toml hold, only one module reads a clock, start-up is
fast."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from toolkit.sessions.runtimes import RUNTIMES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "toolkit"

# In addition to torch and numpy, which the toolkit itself requires.
RUNTIME_PACKAGES = sorted({row.package for row in RUNTIMES.values()} - {"torch", "numpy"})
NEEDS_TORCH = (
    *("training.*", "checkpoints.*", "artifacts.export", "artifacts.writer", "artifacts.formats.*"),
    *("artifacts.embedded", "artifacts.parsers.torchscript"),
    *("artifacts.rounding.torch_model", "artifacts.rounding.ordered_sums"),
    "artifacts.rounding._dispatch",
    "sessions.runtimes._torch*",
    *("parity.causes.changes", "parity.causes.experiments", "parity.causes.fitting"),
    *("parity.causes.onnx_file", "parity.causes.operators", "parity.causes.rounding"),
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


def early(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, without function bodies."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from early(statement.orelse)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from early(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from early(handler.body)


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


def test_contracts_of_import_linter_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports point down, there are no cycles, formats and runtimes do not import siblings."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None) == 0


@pytest.mark.parametrize("name", MODULES)
def test_only_the_torch_side_imports_torch_early(name: str) -> None:
    roots = {module.partition(".")[0] for module in imported(early(TREES[name].body))}
    if not any(fnmatch(name, entry) for entry in NEEDS_TORCH):
        assert not roots & {"torch", "torchvision"}
    if not fnmatch(name, "artifacts.formats.*"):
        assert not roots & {"onnx", "onnxscript", *RUNTIME_PACKAGES}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "timing"])
def test_only_timing_reads_a_clock(name: str) -> None:
    nodes = list(ast.walk(TREES[name]))
    assert not imported(iter(nodes)) & CLOCKS
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not used & CLOCK_CALLS


def test_durations_come_from_a_clock_that_never_goes_back() -> None:
    """The wall clock only gives the date: it may be set at any moment."""
    used = [
        node.attr
        for node in ast.walk(TREES["timing"])
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in CLOCKS
    ]
    assert set(used) == {"perf_counter_ns", "now"}
    assert used.count("now") == 1
    assert time.get_clock_info("perf_counter").monotonic


def python(code: str) -> str:
    """Return the last line that a fresh interpreter prints."""
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
def test_help_and_runtimes_import_no_heavy_package(arguments: list[str]) -> None:
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


def test_importing_toolkit_imports_no_submodules() -> None:
    code = "import sys, toolkit; print(*(n for n in sys.modules if n.startswith('toolkit')))"
    assert python(code) == "toolkit"


def test_every_module_imports_without_any_runtime_installed() -> None:
    """Except for formats, which consist of their libraries; `__main__` would run the command."""
    others = [name for name in MODULES if not name.startswith("artifacts.formats.")]
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
