"""The whole pipeline, including converters of all int8 formats, without any network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKPOINT

pytestmark = pytest.mark.slow

NAMESPACE = ("unshare", "--net", "--map-root-user")


@pytest.fixture
def no_network() -> tuple[str, ...]:
    """Start a command in its own network namespace without an active interface. If runtimes may not
    be skipped, this may not be skipped either."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"]).returncode != 0:
        reason = "needs unshare, and the right to make a network namespace"
        (pytest.fail if os.environ.get("TOOLKIT_REQUIRED_RUNTIMES") else pytest.skip)(reason)
    return NAMESPACE


def run(command: tuple[str, ...], *arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [*command, sys.executable, "-m", "toolkit", "run", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert isinstance(record, dict)
    return record


def test_quick_run_without_a_network(no_network: tuple[str, ...], tmp_path: Path) -> None:
    assert run(no_network, "--quick", "--out", tmp_path / "run")["parity"]


def test_int8_of_every_format_without_a_network(
    no_network: tuple[str, ...], tmp_path: Path
) -> None:
    formats = ("onnx", "openvino", "litert", "executorch")
    options = [part for name in formats for part in ("--format", name)]
    record = run(
        *(no_network, "--quick", "--checkpoint", CHECKPOINT, "--out", tmp_path / "run"),
        *(*options, "--precision", "int8"),
    )
    rows = record["parity"]
    assert isinstance(rows, list)
    written = {row["format"] for row in rows if row["precision"] == "int8"}
    assert written == set(formats)
