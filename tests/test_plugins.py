"""Another package adds a runtime and a format: installed for real, used by the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import CHECKPOINT, PATIENCE_S, REPOSITORY

from toolkit.errors import ToolkitWarning
from toolkit.packages import plugin_rows
from toolkit.sessions.runtimes import RUNTIMES, Runtime

PLUGIN = REPOSITORY / "tests" / "plugin"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the plug-in package is installed in."""
    folder = tmp_path_factory.mktemp("plugin")
    options = "--quiet --no-deps --no-index --no-build-isolation --disable-pip-version-check"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", *options.split()),
            *("--target", folder, PLUGIN),
        ],
        check=True,
        timeout=PATIENCE_S,
    )
    return folder


def toolkit(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command with the plug-in on the path."""
    path = os.pathsep.join([str(installed), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-m", "toolkit", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_runtimes_lists_the_rows_of_another_package(installed: Path) -> None:
    done = toolkit(installed, "runtimes", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    added = record["runtimes"][-1]
    assert (added["name"], added["version"], added["formats"]) == ("plain", "1.2.3", ["plain"])
    assert [row["name"] for row in record["runtimes"][:-1]] == list(RUNTIMES)
    assert record["formats"][-1]["versions"] == {"toolkit-plain": "1.2.3"}


def test_unusable_row_gives_one_warning_that_names_its_package(installed: Path) -> None:
    lines = toolkit(installed, "runtimes").stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("Warning: package toolkit-plain: ") for line in lines)
    assert all(line.endswith("pip uninstall toolkit-plain") for line in lines)
    text = "\n".join(sorted(lines))
    assert "broken = toolkit_plain.missing:RUNTIME" in text
    assert "No module named 'toolkit_plain.missing'" in text
    assert "the name 'eager' is taken" in text
    assert "it is Format, expected a row of type Runtime" in text


def test_plugin_format_is_exported_and_its_runtime_verified(
    installed: Path, tmp_path: Path, small_data: Path
) -> None:
    """The plug-in's engine can be imported only with the environment variable in its row."""
    out = tmp_path / "exports"
    exported = toolkit(installed, "export", CHECKPOINT, "--format", "plain", "--out", out)
    assert exported.returncode == 0, exported.stderr
    arguments = ("--runtime", "plain", "--data", small_data, "--threads", 1, "--json")
    verified = toolkit(installed, "verify", out, *arguments)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (row,) = json.loads(verified.stdout)["parity"]
    assert (row["runtime"], row["format"], row["status"]) == ("plain", "plain", "passed")
    assert (row["flips"], row["session"]["version"]) == (0, "1.2.3")


def test_artifacts_of_an_uninstalled_package_stay_recorded(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "exports"
    for formats, path in (("plain", installed), ("torchscript", tmp_path)):
        done = toolkit(path, "export", CHECKPOINT, "--format", formats, "--out", out)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert [each["format"] for each in manifest["artifacts"]] == ["torchscript", "plain"]


def test_row_name_must_match_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("mine", "toolkit.sessions.runtimes:RUNTIMES", "toolkit.runtimes")
    row = next(iter(RUNTIMES.values()))
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: row)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: metadata.EntryPoints([entry]))
    with pytest.warns(ToolkitWarning, match="its row is named 'eager', expected the entry point's"):
        assert plugin_rows("toolkit.runtimes", Runtime, built_in=()) == {}
