"""Systems that the toolkit does not run on are refused in one line, before anything is done."""

from __future__ import annotations

import subprocess
import sys

import pytest

import toolkit
from toolkit.errors import UnsupportedSystemError

# Click and shutil import modules of Windows there, so they come before the change of the name.
COMMAND = """
import shutil, sys, click
sys.platform = {system!r}
from toolkit.cli import main
sys.argv = ["toolkit", *{arguments!r}]
main()
"""


def run_on(system: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = COMMAND.format(system=system, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("system", ["win32", "freebsd14"])
@pytest.mark.parametrize("command", ["runtimes", "export", "bench"])
def test_unsupported_system_gives_one_error_line(system: str, command: str) -> None:
    done = run_on(system, command)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: toolkit does not run on {system}: expected Linux or macOS")
    assert "WSL 2" in line


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_supported_systems_are_not_refused(system: str) -> None:
    assert run_on(system, "runtimes").returncode == 0


def test_help_is_shown_on_every_system() -> None:
    assert run_on("win32", "--help").returncode == 0


def test_python_functions_refuse_unsupported_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedSystemError, match="does not run on win32"):
        _ = toolkit.read_results
