"""Completion by the shell, as bash asks for it; and the groups of the help."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from toolkit.cli import commands


def completed(line: str) -> list[str]:
    words = line.split(" ")
    environment = {
        **os.environ,
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TOOLKIT_COMPLETE": "bash_complete",
    }
    program = "import sys; sys.argv[0] = 'toolkit'; from toolkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    return [each.partition(",")[2] for each in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("toolkit ex", ["export"]),
        ("toolkit export --format o", ["onnx", "ort", "openvino"]),
        ("toolkit export --precision int8", ["int8", "int8-dynamic", "int8-weights"]),
        ("toolkit verify --runtime on", ["onnxruntime"]),
        ("toolkit run --format al", ["all"]),
    ],
)
def test_shell_completes(line: str, names: list[str]) -> None:
    assert completed(line) == names


def test_help_lists_each_command_once() -> None:
    with commands.make_context("toolkit", [], resilient_parsing=True) as context:
        text = commands.get_help(context)
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert sorted(name for name in lines if name in commands.commands) == sorted(commands.commands)
    assert [title for title in ("Make:", "Check:", "Measure:", "Decide:") if title in text]
