"""The whole pipeline on small real data, in separate processes, and the results of an
interruption."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest
import torch
from conftest import CHECKPOINT, PATIENCE_S, USUAL, Cli, installed_pairs, wait_until, write_idx

import toolkit
from toolkit import run_pipeline as pipeline
from toolkit.artifacts.formats import FORMATS
from toolkit.errors import OutputError
from toolkit.measurement.plan import Plan
from toolkit.places import without_places
from toolkit.report.progress import Progress
from toolkit.results import SCHEMA, read_results
from toolkit.run_pipeline import Run
from toolkit.schema import InputSpec, ModelSpec, Results, from_json
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, RUNTIMES


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure one pass only: the tests check which rows exist, not how exact they are."""
    short = Plan(min_time_s=0.1, min_rounds=6, passes=1)
    monkeypatch.setattr(pipeline, "plan_of", lambda *_, **__: short)


# A shell starts background commands with SIGINT ignored, and their children inherit that.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
"""


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line in its own process group, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(cwd)},
    )


@pytest.mark.slow
def test_quick_run_writes_all_reports_and_passes(small_data: Path, tmp_path: Path) -> None:
    process = start("run", "--quick", "--data", small_data, "--out", "here", "--json", cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    record = json.loads(stdout)
    folder = tmp_path / "here"
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    assert record.pop("folder") == "here"
    assert json.loads((folder / "results.json").read_text()) == record
    names = [name for name, _ in installed_pairs(CHECKPOINT_FORMAT, *USUAL)]
    assert [row["runtime"] for row in record["parity"]] == names
    assert [row["runtime"] for row in record["measurements"]] == [*names, "no-op"]
    sha256 = {row["runtime"]: row["artifact_sha256"] for row in record["parity"]}
    for row in record["measurements"][:-1]:
        assert row["artifact_sha256"] == sha256[row["runtime"]]
    assert "onnxruntime" in (folder / "results.md").read_text()
    lines = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    places = {row["name"]: place for place, row in enumerate(record["ranking"])}
    ranked = sorted(record["measurements"][:-1], key=lambda row: places[row["name"]])
    assert [line["runtime"] for line in lines] == [*(row["runtime"] for row in ranked), "no-op"]
    assert record["limits"]["float32_flops_per_s"] > 0
    ended_early = "stopped" in {warning["code"] for warning in record["warnings"]}
    passes = {len(row["passes"]) for row in record["measurements"]}
    assert passes == {3} or (ended_early and passes <= {1, 2, 3})
    assert read_results(folder / "results.json").exit_code == 0
    assert {path.name for path in folder.iterdir()} == {
        *("small0-cnn", "artifacts"),
        *("results.json", "results.md", "results.csv", "report.html"),
    }
    assert not list(tmp_path.glob("toolkit-worker-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_pass")
def test_python_api_gives_the_same_result_as_the_command(small_data: Path, tmp_path: Path) -> None:
    done = toolkit.run(
        checkpoint=CHECKPOINT,
        quick=True,
        data=small_data,
        out=tmp_path / "run",
        formats=["onnx"],
        runtimes=["onnxruntime"],
        session=toolkit.SessionOptions(threads=1),
    )
    assert done.results.exit_code == 0
    assert [row.runtime for row in done.results.parity] == ["onnxruntime"]
    assert done.results.checkpoint.path == without_places(str(CHECKPOINT))


@pytest.mark.slow
@pytest.mark.usefixtures("one_pass")
def test_run_continues_after_a_failed_export(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.artifacts import formats

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
        runtimes=["eager", "torchscript", "onnxruntime"],
        session=toolkit.SessionOptions(threads=1),
    )
    rows = {row.runtime: row for row in done.results.parity}
    assert {name: row.status for name, row in rows.items()} == {
        "torchscript": "not_installed",
        "eager": "passed",
        "onnxruntime": "passed",
    }
    assert rows["torchscript"].artifact_sha256 is None
    assert done.results.exit_code == 3
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))


def at_work(process: psutil.Process) -> bool:
    """Return whether the process has started its work, judged by its CPU time."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(process.cpu_times()[:2]) > 0.5
    return False


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_interrupt_leaves_no_child_process_and_no_partial_file(
    small_data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(
        *("run", "--checkpoint", CHECKPOINT, "--data", small_data, "--out", "here"),
        cwd=tmp_path,
    )
    driver = psutil.Process(process.pid)
    wait_until(lambda: any(map(at_work, driver.children())), "a converter is at work")
    children = driver.children(recursive=True)
    os.killpg(process.pid, number)  # like a terminal: the workers get it too
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("Error: interrupted")
    assert not any(child.is_running() for child in children)
    leftovers = [str(path) for path in tmp_path.rglob("*") if "part" in path.name]
    assert leftovers == []
    assert not list(tmp_path.glob("toolkit-*"))
    assert not list(tmp_path.rglob("*.lock"))


def test_interrupt_during_bench_rounds_keeps_measurements(
    exports: Path, small_data: Path, tmp_path: Path
) -> None:
    """The first pass is over when results.json exists; the second is running."""
    process = start(
        *("bench", exports / "mnist-cnn.onnx", "--data", small_data, "--runtime", "onnxruntime"),
        *("--threads", 1, "--target-width", "0.01%", "--max-time", 3600, "--out", "here", "--json"),
        cwd=tmp_path,
    )
    driver, results = psutil.Process(process.pid), tmp_path / "here" / "results.json"
    wait_until(results.exists, "the first pass is over")
    wait_until(lambda: any(map(at_work, driver.children())), "a worker of the second is at work")
    children = driver.children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    record = json.loads(stdout)
    assert record["interrupted"]
    assert read_results(results) == from_json(Results, record)
    for row in record["measurements"]:
        assert row["passes"][0]["rounds"]
    assert "Interrupted" in (tmp_path / "here" / "results.md").read_text()
    assert not any(child.is_running() for child in children)
    assert not [path for path in tmp_path.rglob("*") if "part" in path.name]
    assert not list(tmp_path.glob("toolkit-worker-*"))


def test_every_installed_runtime_runs_by_default(small_data: Path) -> None:
    assert all(row.version() for row in RUNTIMES.values() if "cpu" in row.devices)


@pytest.fixture
def branching(tmp_path: Path) -> Path:
    """A checkpoint that TorchScript accepts and torch.export refuses."""
    slopes = torch.randn(10, 784, generator=torch.Generator().manual_seed(0))
    weights = {"fc.weight": slopes, "fc.bias": torch.full((10,), 1000.0)}  # one branch: above 0
    torch.save(weights, tmp_path / "w.pt")
    toolkit.import_weights(
        tmp_path / "w.pt",
        out=tmp_path / "branching",
        model=ModelSpec(factory="branching:Branching"),
        input_spec=InputSpec(shape=(1, 28, 28), mean=(0.5,), std=(0.5,)),
        classes=10,
    )
    return tmp_path / "branching"


@pytest.mark.usefixtures("one_pass")
@pytest.mark.filterwarnings("ignore")  # the tracer rightly warns about the branch
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"formats": ["pt2"]}, [("pt2", "unsupported"), ("eager", "passed")]),
        (
            {"formats": ["pt2"], "runtimes": ["no-op", "pt2"]},
            [("pt2", "unsupported"), ("eager", "passed")],
        ),
        (
            {"formats": ["torchscript", "pt2"], "runtimes": ["pt2", "torchscript"]},
            [("pt2", "unsupported"), ("torchscript", "passed")],
        ),
        (
            {"formats": ["torchscript", "pt2"], "runtimes": ["torchscript", "no-op"]},
            [("-", "unsupported"), ("torchscript", "passed")],
        ),
    ],
    ids=["alone", "its runtime", "its runtime and another", "another runtime"],
)
def test_failed_export_gives_a_row_and_the_run_continues(
    branching: Path,
    small_data: Path,
    tmp_path: Path,
    options: dict[str, Any],
    wanted: list[tuple[str, str]],
) -> None:
    done = toolkit.run(
        checkpoint=branching,
        model="branching:Branching",
        quick=True,
        data=small_data,
        out=tmp_path / "run",
        session=toolkit.SessionOptions(threads=1),
        **options,
    )
    assert [(row.runtime, row.status) for row in done.results.parity] == wanted
    lost = done.results.parity[0]
    assert (lost.format, lost.artifact_sha256, lost.compared) == ("pt2", None, 0)
    assert "torch.export cannot take this model: branching.py, line 16" in str(lost.reason)
    assert [row.runtime for row in done.results.measurements] == [wanted[1][0], "no-op"]
    assert done.results.exit_code == 3
    assert read_results(tmp_path / "run" / "results.json") == done.results
    assert (
        "unsupported: torch.export cannot take this model"
        in (tmp_path / "run" / "results.md").read_text()
    )


def run_quickly(data: Path | None, out: Path, **options: Any) -> Run:
    session = toolkit.SessionOptions(threads=1)
    return toolkit.run(
        checkpoint=CHECKPOINT, quick=True, data=data, out=out, session=session, **options
    )


@pytest.mark.usefixtures("one_pass")
def test_failed_format_without_a_runtime_gives_a_failed_row(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(FORMATS["onnx"], name="orphan", distributions=("no-such-package",))
    monkeypatch.setitem(FORMATS, "orphan", row)
    results = run_quickly(small_data, tmp_path / "run", formats=["orphan"]).results
    rows = [(row.runtime, row.format, row.status) for row in results.parity]
    assert rows == [("-", "orphan", "not_installed"), ("eager", "checkpoint", "passed")]
    assert results.exit_code == 3


class Stopped(Exception):  # noqa: N818 - not an error: it represents Ctrl-C
    """Stops a run at a chosen point."""


def stop_at(label: str) -> Progress:
    def progress(found: str, done: int, total: int, note: str = "", /) -> None:
        if found == label:
            raise Stopped

    return progress


def test_failed_export_is_written_before_verification(
    branching: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        toolkit.run(
            checkpoint=branching,
            model="branching:Branching",
            data=small_data,
            out=tmp_path / "run",
            formats=["pt2"],
            session=toolkit.SessionOptions(threads=1),
            progress=stop_at("eager fp32"),
        )
    results = read_results(tmp_path / "run" / "results.json")
    assert [(row.runtime, row.status) for row in results.parity] == [("pt2", "unsupported")]


@pytest.mark.parametrize(
    ("label", "verified"),
    [("torchscript fp32 second look", ["eager"]), ("rounds", ["eager", "torchscript"])],
)
def test_verified_rows_are_kept_after_an_interruption(
    small_data: Path, tmp_path: Path, label: str, verified: list[str]
) -> None:
    with pytest.raises(Stopped):
        run_quickly(small_data, tmp_path / "run", formats=["torchscript"], progress=stop_at(label))
    results = read_results(tmp_path / "run" / "results.json")
    assert [(row.runtime, row.status) for row in results.parity] == [
        (name, "passed") for name in verified
    ]
    assert results.measurements == ()


def test_earlier_results_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(OutputError, match=r"already holds results\.json; choose another folder"):
        run_quickly(None, tmp_path)
    assert (tmp_path / "results.json").read_text() == "mine"


def test_artifacts_of_an_earlier_run_are_not_mixed_in(own_exports: Path, tmp_path: Path) -> None:
    own_exports.rename(tmp_path / "artifacts")
    with pytest.raises(
        OutputError, match=r"holds artifacts/manifest\.json; choose another .*--out"
    ):
        run_quickly(None, tmp_path)


def test_run_interrupted_after_training_says_how_to_continue(
    own_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    trained = own_checkpoint.rename(folder / "mnist-cnn")
    refused = cli("run", "--out", folder)
    assert refused.exit_code == 2
    assert f"{folder} already holds mnist-cnn; choose another folder" in refused.stderr
    assert f"--checkpoint {trained}" in refused.stderr
    assert "--force" not in refused.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "nowhere"), "no folder nowhere"),
        (("--data", "{test_only}"), "expected one file named *train*"),
        (("--data", "{coloured}", "--checkpoint", CHECKPOINT), "expects [1, 28, 28]"),
        (("--checkpoint", "nowhere"), "no nowhere"),
        (("--runtime", "no-op"), "--runtime no-op computes nothing; name one more"),
        (
            ("--runtime", "pt2", "--format", "onnx"),
            "loads pt2, but --format and --precision name onnx fp32; add --format pt2",
        ),
        (
            ("--runtime", "tract", "--format", "onnx", "--precision", "int8"),
            "tract loads onnx in fp32, fp16, but --format and --precision name onnx int8",
        ),
    ],
    ids=[
        *("no data", "no training data", "other data", "no checkpoint", "no-op"),
        *("no common format", "no common precision"),
    ],
)
def test_refused_arguments_create_no_folder(
    cli: Cli,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    says: str,
) -> None:
    test_only, coloured = tmp_path / "test_only", tmp_path / "coloured"
    shutil.copytree(small_data, test_only, ignore=shutil.ignore_patterns("train*"))
    coloured.mkdir()
    write_idx(coloured / "test-images-idx4-ubyte", np.zeros((4, 3, 28, 28), np.uint8))
    write_idx(coloured / "test-labels-idx1-ubyte", np.zeros(4, np.uint8))
    monkeypatch.chdir(tmp_path)
    given = [str(item).format(test_only=test_only, coloured=coloured) for item in options]
    result = cli("run", *given)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "runs").exists()
