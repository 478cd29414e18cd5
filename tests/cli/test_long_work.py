"""Long work: finished rows are told and kept, quick looks say so, Ctrl-C prints what there is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINT, PATIENCE_S, REPOSITORY, Cli

import toolkit
from toolkit.data import load_dataset
from toolkit.data.sample import QUICK_IMAGES, draw_sample
from toolkit.errors import Interrupted
from toolkit.parity.gates import GateSettings
from toolkit.parity.reference import Reference
from toolkit.parity.verdict import compare
from toolkit.report.progress import Progress
from toolkit.schema import Artifact, Precision
from toolkit.sessions.runtimes import RUNTIMES, Runtime

ONE_THREAD = toolkit.SessionOptions(threads=1)


def interrupt_after(*labels: str) -> Progress:
    """Raise Ctrl-C when the last of these rows or formats is finished."""
    left = list(labels)

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        if left and label.startswith(left[0]) and (done, total) == (1, 1):
            left.pop(0)
            if not left:
                raise KeyboardInterrupt

    return progress


def test_each_verified_row_is_a_line_with_its_seconds(
    cli: Cli, own_exports: Path, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = cli(
        *("verify", own_exports, "--data", small_data, "--runtime", "onnxruntime,eager"),
        *("--threads", 1, "--out", out),
    )
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.endswith(" s)")]
    assert [line.partition(": passed (")[0] for line in told] == [
        "onnxruntime fp32 mnist-cnn.onnx",
        "eager fp32 mnist-cnn",
    ]
    assert "noise floor: " in result.stderr or "images, kept" in result.stderr
    assert {path.name for path in out.iterdir()} == {
        *("results.json", "results.md", "results.csv", "report.html"),
    }
    assert [row.status for row in toolkit.read_results(out).parity] == ["passed", "passed"]
    assert str(REPOSITORY) not in (out / "results.json").read_text()
    again = cli("verify", own_exports, "--data", small_data, "--out", out)
    assert (again.exit_code, "already holds results.json" in again.stderr) == (2, True)


def test_ctrl_c_in_verify_keeps_the_finished_rows(
    own_exports: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"1 of 2 rows is finished and kept in .*results\.json"):
        toolkit.verify(
            own_exports,
            data=small_data,
            runtimes=["onnxruntime", "torchscript"],
            session=ONE_THREAD,
            out=tmp_path / "out",
            progress=interrupt_after("onnxruntime"),
        )
    kept = toolkit.read_results(tmp_path / "out")
    assert kept.interrupted
    assert [(row.runtime, row.status) for row in kept.parity] == [("onnxruntime", "passed")]
    assert "Interrupted" in (tmp_path / "out" / "results.md").read_text()


def test_ctrl_c_before_the_first_row_keeps_nothing(
    own_exports: Path, small_data: Path, tmp_path: Path
) -> None:
    def stop(label: str, done: int, total: int, note: str = "", /) -> None:
        if label == "onnxruntime fp32":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        toolkit.verify(
            own_exports,
            data=small_data,
            runtimes="onnxruntime",
            session=ONE_THREAD,
            out=tmp_path / "out",
            progress=stop,
        )
    assert not isinstance(caught.value, Interrupted)
    assert not (tmp_path / "out" / "results.json").exists()


def test_ctrl_c_in_export_keeps_the_finished_formats_and_the_next_export_goes_on(
    tmp_path: Path,
) -> None:
    formats = ["torchscript", "pt2"]
    with pytest.raises(Interrupted, match=r"1 of 2 artifacts is finished.*goes on with pt2 fp32"):
        toolkit.export(
            CHECKPOINT, out=tmp_path, formats=formats, progress=interrupt_after("torchscript fp32")
        )
    told: list[str] = []
    done = toolkit.export(
        str(CHECKPOINT),
        out=str(tmp_path),
        formats=formats,
        progress=lambda label, done, total, note="", /: told.append(f"{label}: {note}"),
    )
    assert done.written == ("mnist-cnn.pt2",)
    assert any(line.startswith("torchscript fp32: up to date (") for line in told)
    assert any(line.startswith("pt2 fp32: written (") for line in told)
    assert "up to date" in str(done)
    assert done._repr_html_().count("<tr>") == 3


# A shell may have started the tests with the signal ignored, and children inherit that.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_prints_what_is_finished_and_what_comes_next(tmp_path: Path) -> None:
    """A real signal: to the command when its first file is finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "export", str(CHECKPOINT), "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(PATIENCE_S, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("torchscript fp32: written ("):
                process.send_signal(signal.SIGINT)
                break
        stdout, stderr = process.communicate()
    finally:
        guard.cancel()
        process.kill()
    assert process.returncode == 130
    assert "mnist-cnn.torchscript" in stdout
    assert "Interrupted: some artifacts are missing." in stdout
    assert "the same command goes on with onnx fp32, pt2 fp32." in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_ctrl_c_in_tune_keeps_the_finished_rows(
    own_exports: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"tried and kept in .*tuning\.json") as caught:
        toolkit.tune(
            own_exports,
            data=small_data,
            runtimes="onnxruntime",
            out=tmp_path,
            progress=interrupt_after("stage 1 onnxruntime"),
        )
    found = caught.value.results
    assert (found.interrupted, found.recommended) == (True, None)
    assert "onnxruntime" in str(found)
    assert "Interrupted" in str(found)
    assert list(found.to_frame()["runtime"]) == ["onnxruntime"]
    with pytest.raises(toolkit.ToolkitError, match="contains no recommendation: interrupted in"):
        toolkit.read_tuning(tmp_path)


@pytest.mark.slow
def test_quick_tune_says_so(own_exports: Path, tmp_path: Path, cli: Cli) -> None:
    result = cli(
        *("tune", own_exports, "--runtime", "onnxruntime", "--quick", "--out", tmp_path, "--json")
    )
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["quick"]
    assert record["dataset"]["images"] == QUICK_IMAGES
    assert "Quick: 500 of 10,000 images" in str(toolkit.read_tuning(tmp_path))


def test_quick_verify_compares_a_sample_and_says_so(cli: Cli, own_exports: Path) -> None:
    result = cli("verify", own_exports, "--runtime", "onnxruntime", "--quick", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert "500/500" in result.stdout
    assert "Quick: 500 of 10,000 images were compared" in result.stdout


def test_sample_is_the_same_each_time_and_has_all_classes() -> None:
    whole = load_dataset("test")
    sample, places = draw_sample(whole)
    again, _ = draw_sample(whole)
    assert len(sample) == len(places) == QUICK_IMAGES
    assert (sample.record.images, sample.record.drawn_from) == (QUICK_IMAGES, len(whole))
    assert sample.record.sha256 == whole.record.sha256
    np.testing.assert_array_equal(sample.images[:], again.images[:])
    np.testing.assert_array_equal(sample.images[:], whole.images[places])
    np.testing.assert_array_equal(sample.labels, whole.labels[places])
    assert set(sample.labels) == set(range(10))
    assert (np.diff(places) > 0).all()
    assert draw_sample(sample)[0] is sample


@pytest.mark.parametrize(("precision", "status"), [("fp32", "passed"), ("int8", "undecided")])
def test_quick_look_claims_no_more_than_its_images_show(precision: Precision, status: str) -> None:
    """Equal logits on 500 images do not show that at most 1 of 1,000 predictions changes."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(QUICK_IMAGES, 10)) * 5
    reference = Reference(
        logits=logits, labels=logits.argmax(1), floors=np.full(QUICK_IMAGES, 1e-6)
    )
    artifact = Artifact(
        format="onnx",
        precision=precision,
        path="net.onnx",
        size_bytes=1,
        sha256="a" * 64,
        checkpoint_sha256="c" * 64,
        spec_sha256="d" * 64,
        input_shape=(1, 28, 28),
        classes=10,
    )
    report = compare(
        reference,
        logits,
        runtime="onnxruntime",
        artifact=artifact,
        gates=GateSettings().of(precision),
    )
    assert report.status == status
    assert report.flip_rate is not None
    assert report.flip_rate.high > 0.005


@pytest.mark.parametrize(
    ("option", "value"),
    [("--min-time", 20), ("--min-rounds", 20), ("--target-width", "1%"), ("--max-time", 20)],
)
def test_quick_bench_takes_no_other_plan(cli: Cli, option: str, value: object) -> None:
    result = cli("bench", "nowhere", "--quick", option, value)
    assert result.exit_code == 2
    assert f"--quick and {option} cannot be used together" in result.stderr
    with pytest.raises(toolkit.ToolkitError, match="--quick sets how long to measure"):
        toolkit.bench("nowhere", quick=True, plan=toolkit.Plan())


def test_debug_adds_the_dump_of_a_failed_row(
    cli: Cli, own_exports: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Runtime(
        name="faulty",
        module="faulty",
        package="numpy",
        distributions=("numpy",),
        formats=("onnx",),
        install="pip install numpy",
        environment={"FAULT": "segfault"},
    )
    monkeypatch.setitem(RUNTIMES, "faulty", row)
    command = ("verify", own_exports / "mnist-cnn.onnx", "--data", small_data, "--threads", 1)
    for debug in ((), ("--debug",)):
        result = cli(*command, "--runtime", "faulty", *debug)
        assert result.exit_code == 3, result.stderr
        assert "crashed: SIGSEGV" in result.stdout
        assert ("about to fault" in result.stderr) == bool(debug)
