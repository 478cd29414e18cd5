"""The notebook in `docs/`: valid, without old outputs, and its cells run in order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

import toolkit

TOUR = REPOSITORY / "docs" / "tour.ipynb"

# Runs the cells as a notebook does: the value of the last line is shown, as HTML if it can.
RUNNER = """
import ast, json, sys
names = {"__name__": "__main__"}
for cell in json.loads(open(sys.argv[1]).read())["cells"]:
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell["id"], "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
        show = getattr(value, "_repr_html_", lambda: repr(value))
        print(cell["id"], show())
"""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(TOUR.read_text())["cells"]
    return found


def test_notebook_is_of_a_version_that_all_readers_know_and_has_no_outputs() -> None:
    notebook = json.loads(TOUR.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells()}) == len(cells())
    for cell in cells():
        assert cell["cell_type"] in ("code", "markdown")
        assert isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_names_in_the_notebook_exist() -> None:
    code = "".join("".join(cell["source"]) for cell in cells())
    names = set(re.findall(r"toolkit\.(\w+)", code))
    assert len(names) > 5
    assert names <= set(toolkit.__all__)


@pytest.mark.slow
def test_cells_of_the_notebook_run_in_order(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(TOUR)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<table") >= 3
    assert "Quick: 500 of 10,000 images were compared" in done.stdout
    assert "unknown format 'onxx': did you mean onnx?" in done.stdout
    assert (tmp_path / "tour" / "exports" / "manifest.json").exists()
