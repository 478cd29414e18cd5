"""The whole way on small real data, in processes of their own, and what an interruption leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest
from conftest import CHECKPOINT, installed_pairs

import toolkit
from toolkit.errors import OutputError
from toolkit.formats import FORMATS
from toolkit.results import SCHEMA, read_results
from toolkit.runtimes import CHECKPOINT_FORMAT, RUNTIMES


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toolkit", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(cwd)},
    )


def test_quick_run_writes_all_reports_and_passes(small_data: Path, tmp_path: Path) -> None:
    process = start("run", "--quick", "--data", small_data, "--out", "here", "--json", cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    record = json.loads(stdout)
    folder = tmp_path / "here"
    assert json.loads((folder / "results.json").read_text()) == record
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    names = [name for name, _ in installed_pairs(CHECKPOINT_FORMAT, *FORMATS)]
    assert [row["runtime"] for row in record["parity"]] == names
    assert [row["runtime"] for row in record["measurements"]] == [*names, "null"]
    sha256 = {row["runtime"]: row["artifact_sha256"] for row in record["parity"]}
    for row in record["measurements"][:-1]:
        assert row["artifact_sha256"] == sha256[row["runtime"]]
    assert "onnxruntime" in (folder / "results.md").read_text()
    lines = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [line["runtime"] for line in lines] == [*names, "null"]
    assert read_results(folder / "results.json").exit_code == 0
    assert {path.name for path in folder.iterdir()} == {
        *("small0-cnn", "artifacts", "results.json", "results.md", "results.csv")
    }
    assert not list(tmp_path.glob("toolkit-worker-*"))


def test_python_does_what_the_command_does(small_data: Path, tmp_path: Path) -> None:
    done = toolkit.run(
        checkpoint=CHECKPOINT,
        quick=True,
        data=small_data,
        out=tmp_path / "run",
        formats=["onnx"],
        runtimes=["onnxruntime"],
        threads=1,
    )
    assert done.results.exit_code == 0
    assert [row.runtime for row in done.results.parity] == ["onnxruntime"]
    assert done.results.checkpoint.path == str(CHECKPOINT)


def test_run_goes_on_without_a_format_that_cannot_be_exported(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit import formats

    broken = {**formats.FORMATS}
    row = broken["torchscript"]
    monkeypatch.setitem(
        formats.FORMATS,
        "torchscript",
        type(row)(
            name="torchscript",
            module=row.module,
            suffix=row.suffix,
            distributions=("no-such-package",),
        ),
    )
    done = toolkit.run(
        checkpoint=CHECKPOINT,
        quick=True,
        data=small_data,
        out=tmp_path / "run",
        formats=["torchscript", "onnx"],
        threads=1,
    )
    rows = {row.runtime: row for row in done.results.parity}
    names = [name for name, _ in installed_pairs(CHECKPOINT_FORMAT, "onnx")]
    assert {name: row.status for name, row in rows.items()} == {
        "torchscript": "not_installed",
        **dict.fromkeys(names, "passed"),
    }
    assert rows["torchscript"].artifact_sha256 is None
    assert done.results.exit_code == 3
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_child_and_no_half_file(
    small_data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(
        *("run", "--checkpoint", CHECKPOINT, "--data", small_data, "--out", "here"),
        cwd=tmp_path,
    )
    driver = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while not driver.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = driver.children(recursive=True)
    assert children, "no worker was started"
    time.sleep(1.0)
    children += driver.children(recursive=True)
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("Error: interrupted")
    assert not any(child.is_running() for child in children)
    leftovers = [str(path) for path in tmp_path.rglob("*") if "part" in path.name]
    assert leftovers == []
    assert not list(tmp_path.glob("toolkit-worker-*"))


def test_every_installed_runtime_runs_by_default(small_data: Path) -> None:
    assert all(row.version() for row in RUNTIMES.values())


def test_earlier_results_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(OutputError, match="already holds results"):
        toolkit.run(checkpoint=CHECKPOINT, out=tmp_path)
    assert (tmp_path / "results.json").read_text() == "mine"
