"""The workflow in docs/ci.md: its commands work, step by step, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import yaml  # type: ignore[import-untyped]
from conftest import REPOSITORY

from toolkit.checkpoints.bundled import reference_checkpoint
from toolkit.cli import commands

PAGE = (REPOSITORY / "docs" / "ci.md").read_text()
(BLOCK,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
STEPS = [step["run"] for step in yaml.safe_load(BLOCK)["jobs"]["gate"]["steps"] if "run" in step]
COMMANDS = [shlex.split(step) for step in STEPS if step.startswith("toolkit ")]


def test_workflow_installs_and_then_runs_the_toolkit() -> None:
    assert STEPS[0].startswith("pip install")
    assert [words[1] for words in COMMANDS] == ["run", "run", "gate"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[1])
def test_every_option_of_the_workflow_exists(words: list[str]) -> None:
    command = commands.commands[words[1]]
    known = {name for option in command.params for name in option.opts}
    assert isinstance(command, click.Command)
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.slow
def test_workflow_runs_step_by_step_in_an_empty_folder(tmp_path: Path, small_data: Path) -> None:
    for place in ("models/mine", "base/models/mine"):
        shutil.copytree(reference_checkpoint(), tmp_path / place)
    summary = tmp_path / "summary.md"
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    for words in COMMANDS:
        quick = ["--quick", "--data", str(small_data)] if words[1] == "run" else []
        done = subprocess.run(
            [sys.executable, "-P", "-m", *words, *quick],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        # A quick run on a busy machine may not decide about speeds; but nothing may be wrong.
        assert done.returncode in ((0, 4) if words[1] == "gate" else (0,)), done.stderr
    assert summary.read_text().startswith("## ")
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().tag == "testsuites"
    for side in ("base", "new"):
        record = json.loads((tmp_path / "runs" / side / "results.json").read_text())
        assert record["command"].startswith("toolkit run --checkpoint ")
        assert (tmp_path / "runs" / side / "report.html").exists()
