"""The Python interface: what `import toolkit` offers, in the ways in which people look at it."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from conftest import CHECKPOINT, Cli

import toolkit

FUNCTIONS = ("bench", "compare", "doctor", "export", "loadgen", "run", "train", "tune", "verify")


def test_dir_lists_the_functions_and_imports_nothing() -> None:
    code = "import sys, toolkit; print(*dir(toolkit)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = done.stdout.splitlines()
    assert {*toolkit.__all__, *FUNCTIONS} <= set(listed.split())
    assert imported == "False"


def test_every_public_name_exists_and_help_describes_it() -> None:
    text = pydoc.plain(pydoc.render_doc(toolkit))
    for name in toolkit.__all__:
        assert getattr(toolkit, name).__doc__, name
        assert name in text
    assert "Compare artifacts with their checkpoint on all test images." in text
    with pytest.raises(AttributeError, match="module 'toolkit' has no attribute 'exprot'"):
        toolkit.exprot  # noqa: B018


@pytest.mark.parametrize("name", [*FUNCTIONS, "import_weights", "read_results", "trust"])
def test_every_path_may_be_text(name: str) -> None:
    """No argument is annotated as a `Path` alone."""
    function = getattr(toolkit, name)
    source = inspect.getsource(inspect.getmodule(function) or function)
    hints = inspect.signature(function).parameters.values()
    assert source
    for each in hints:
        words = str(each.annotation).replace("StrPath", "").replace("Paths", "")
        assert "Path" not in words, each


@pytest.mark.parametrize(
    ("call", "command"),
    [
        (lambda: toolkit.export("nowhere", out="ex"), ("export", "nowhere", "--out", "ex")),
        (lambda: toolkit.verify("nowhere"), ("verify", "nowhere")),
        (lambda: toolkit.bench(["nowhere"]), ("bench", "nowhere")),
        (lambda: toolkit.tune("nowhere"), ("tune", "nowhere")),
        (lambda: toolkit.trust("nowhere"), ("trust", "nowhere")),
        (lambda: toolkit.read_results("nowhere"), ("compare", "nowhere", "nowhere")),
        (lambda: toolkit.train(out="ck", data="nowhere"), ("train", "--out=ck", "--data=nowhere")),
        (
            lambda: toolkit.export(str(CHECKPOINT), out="ex", formats="onxx"),
            ("export", CHECKPOINT, "--format", "onxx"),
        ),
    ],
    ids=["export", "verify", "bench", "tune", "trust", "compare", "train", "format"],
)
def test_errors_are_exceptions_with_the_words_of_the_command_line(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: typing.Callable[[], object],
    command: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(toolkit.ToolkitError) as caught:
        call()
    assert cli(*command).stderr.splitlines()[-1] == f"Error: {caught.value}"
