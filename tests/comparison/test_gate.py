"""A gate: parity and speed judged together, for people and for CI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Cli
from samples import ALONE, CRASHED, FAILED, FAST, PASSED, QUIET, UNDECIDED, results_of

from toolkit.comparison.gate import gate
from toolkit.errors import ToolkitError
from toolkit.report.gate import (
    MOST_BYTES,
    github_annotations,
    render_gate,
    render_junit,
    render_summary,
)
from toolkit.results import write_results
from toolkit.schema import Cause, Gate, Measurement, ParityReport, Results, Round

pytestmark = pytest.mark.usefixtures("no_child_is_left")

EVIL = "<img src=x>|@team`\x1b[2J\n::error::%"


def measured(name: str, call_s: float = 0.01) -> Measurement:
    """A row of eight passes, whose rounds are within 0.1 % of each other."""
    rounds = tuple(Round(samples_s=((call_s * (1 + each / 5000),),)) for each in range(5))
    one = replace(FAST.passes[0], rounds=rounds)
    speed = replace(FAST.images_per_s, value=100 / call_s) if FAST.images_per_s else None
    return replace(FAST, name=name, runtime=name, passes=(one,) * 8, images_per_s=speed)


NAMES = ("onnxruntime", "openvino", "tract", "ncnn", "mnn")


def run_of(*parity: ParityReport, slow: str | None = None, without: str | None = None) -> Results:
    rows = [measured(name, 0.02 if name == slow else 0.01) for name in NAMES if name != without]
    results = results_of(*(parity or (PASSED,)), *rows)
    return replace(results, environment=QUIET, interference=(ALONE,) * 8)


def outcomes(found: Gate) -> dict[str, str]:
    return {f"{row.kind} {row.name}": row.outcome for row in found.rows if row.outcome != "passed"}


def test_equal_runs_pass() -> None:
    found = gate(run_of(), run_of())
    assert (outcomes(found), found.exit_code) == ({}, 0)
    assert render_gate(found).startswith("✓ Passed: 1 of 1 row agrees with your model")
    assert "Nothing changed." in render_summary(found)
    assert list(github_annotations(found)) == []


@pytest.mark.parametrize(
    ("current", "wrong", "exit_code"),
    [
        (run_of(FAILED), "parity openvino fp32 mnist-cnn.onnx", 1),
        (run_of(PASSED, CRASHED), "parity ncnn fp32 mnist-cnn.onnx", 3),
        (run_of(UNDECIDED), "parity onnxruntime fp32 mnist-cnn.onnx", 4),
        (run_of(slow="tract"), "speed tract fp32", 1),
        (run_of(without="mnn"), "speed mnn fp32", 1),
    ],
)
def test_each_way_to_fail_decides(current: Results, wrong: str, exit_code: int) -> None:
    old = run_of(*(replace(row, status="passed") for row in current.parity))
    found = gate(old, current)
    assert list(outcomes(found)) == [wrong]
    assert found.exit_code == exit_code
    assert wrong.split()[1] in render_summary(found)
    (annotation,) = github_annotations(found)
    assert annotation.startswith("::error" if exit_code == 1 else "::warning")


def test_row_that_is_left_out_fails() -> None:
    found = gate(run_of(PASSED, replace(PASSED, runtime="tract")), run_of(PASSED))
    assert outcomes(found) == {"parity tract fp32 mnist-cnn.onnx": "failed"}
    assert found.exit_code == 1


def test_one_of_two_files_of_a_kind_that_is_left_out_fails() -> None:
    other = replace(PASSED, artifact_sha256="f" * 64, file="other.onnx")
    assert outcomes(gate(run_of(PASSED, other), run_of(PASSED))) == {
        "parity onnxruntime fp32 other.onnx": "failed"
    }


def test_row_that_did_not_run_in_the_old_run_either_is_not_missed() -> None:
    found = gate(run_of(PASSED, CRASHED), run_of(PASSED))
    assert (outcomes(found), found.exit_code) == ({}, 0)


@pytest.mark.parametrize("before", ["measured", "failed"])
def test_wrong_outputs_in_timed_calls_fail(before: str) -> None:
    old, new = run_of(), run_of()
    wrong = replace(new.measurements[0], status="failed", reason="outputs differ", passes=())
    wrong = replace(wrong, images_per_s=None)
    if before == "failed":
        old = replace(old, measurements=(wrong, *old.measurements[1:]))
    found = gate(old, replace(new, measurements=(wrong, *new.measurements[1:])))
    assert outcomes(found) == {"speed onnxruntime fp32": "failed"}
    assert found.exit_code == 1


def test_row_that_could_not_be_measured_in_both_runs_is_not_a_pass() -> None:
    results = run_of()
    lost = replace(results.measurements[0], status="crashed", reason="SIGSEGV", passes=())
    results = replace(
        results, measurements=(replace(lost, images_per_s=None), *results.measurements[1:])
    )
    found = gate(results, results)
    assert outcomes(found) == {"speed onnxruntime fp32": "not run"}
    assert found.exit_code == 3


def test_undecided_can_be_allowed_and_is_still_told() -> None:
    found = gate(run_of(), run_of(UNDECIDED), allow_undecided=True)
    assert (outcomes(found), found.exit_code) == ({}, 0)
    assert "undecided: too few images" in render_summary(found)


def test_results_without_parity_are_refused() -> None:
    speeds = replace(run_of(), parity=())
    with pytest.raises(ToolkitError, match="a gate needs both verdicts"):
        gate(run_of(), speeds)


def test_failed_row_says_its_cause() -> None:
    (row,) = [each for each in gate(run_of(), run_of(FAILED)).rows if each.outcome == "failed"][:1]
    assert row.reason == "failed: 40 flips. The logits are a softmax. Export without it."


def evil() -> Gate:
    cause = Cause(kind=EVIL, text=EVIL, action=EVIL)
    row = replace(FAILED, runtime=EVIL, reason=EVIL, file=EVIL, cause=cause)
    return gate(run_of(row), run_of(row))


def test_summary_escapes_names() -> None:
    text = render_summary(evil())
    assert "<img" not in text
    assert "@team" not in text
    (line,) = [each for each in text.splitlines() if "img src" in each]
    assert line.replace("\\|", "").count("|") == 5


def test_junit_is_xml_whatever_the_names() -> None:
    root = ElementTree.fromstring(render_junit(evil()))
    (case,) = root.findall("testsuite[@name='parity']/testcase")
    assert str(case.get("name")).startswith("<img src=x>|@team`\N{REPLACEMENT CHARACTER}[2J")
    assert case.find("failure") is not None
    suites = {each.get("name"): each for each in root}
    assert (suites["parity"].get("failures"), suites["speed"].get("failures")) == ("1", "0")
    assert suites["speed"].get("tests") == "5"


def test_annotations_are_one_line_each() -> None:
    (line,) = github_annotations(evil())
    assert "\n" not in line
    assert line.count("::") == 2 + 2 * 3  # of the command, and inert ones in the message
    assert "title=parity%3A <img src=x>|@team`\x1b[2J%0A%3A%3Aerror%3A%3A%25" in line


def test_summary_of_many_long_rows_fits_into_a_comment() -> None:
    rows = [replace(FAILED, runtime=f"r{number}", reason="x" * 900) for number in range(300)]
    text = render_summary(gate(run_of(*rows), run_of(*rows)))
    assert len(text.encode()) <= MOST_BYTES
    assert "more rows are not shown." in text


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, results in ((old, run_of()), (new, run_of(FAILED, slow="tract"))):
        folder.mkdir()
        write_results(folder / "results.json", results)
    return old, new


def test_command_writes_junit_and_summaries(
    cli: Cli, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job.md"
    job.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    done = cli("gate", *folders, "--junit", junit, "--summary", summary, "--github")
    assert (done.exit_code, done.stderr) == (1, "")
    assert done.stdout.startswith("✗ Failed: ")
    assert "\n::error title=speed%3A tract fp32::slower" in done.stdout
    assert ElementTree.parse(junit).getroot().tag == "testsuites"
    assert job.read_text() == "before\n" + summary.read_text()
    record = json.loads(cli("gate", *folders, "--json").stdout)
    assert record["exit_code"] == 1
    assert {row["outcome"] for row in record["rows"]} == {"passed", "failed"}


def test_github_outside_of_actions_is_refused(
    cli: Cli, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    done = cli("gate", *folders, "--github")
    assert done.exit_code == 2
    assert "--summary FILE" in done.stderr


def test_bad_files_are_one_line(cli: Cli, folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = cli("gate", tmp_path / "missing", folders[1])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    done = cli("gate", *folders, "--junit", folders[0] / "results.json" / "x.xml")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
