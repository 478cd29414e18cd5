"""LoadGen itself, in real workers: no query is lost, its verdict is quoted, faults become rows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import PATIENCE_S, Cli, PatientSession, faulty
from numpy.typing import NDArray

from toolkit.data import load_dataset
from toolkit.errors import SettingError
from toolkit.measurement.loadgen import (
    Scenarios,
    check_scenario,
    is_submission_length,
    library_of,
)
from toolkit.packages import installed_version
from toolkit.report.markdown import render_markdown
from toolkit.report.table import render_table
from toolkit.results import read_results, start_results
from toolkit.schema import (
    Results,
    ScenarioName,
    ScenarioReport,
    ScenarioSettings,
    Settings,
)
from toolkit.sessions.candidates import Candidate, Subject, find_candidates
from toolkit.sessions.loadgen import Sample, Stream, serve
from toolkit.sessions.loadgen_log import LoadResult, violations

pytest.importorskip("mlperf_loadgen", reason="pip install 'toolkit[loadgen]'")

IMAGES = load_dataset("test").images[:250]
SCENARIOS: tuple[ScenarioName, ...] = get_args(ScenarioName)


@pytest.fixture(autouse=True)
def leaves_nothing(no_child_is_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and temporary files have their own folder in each test."""
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def wanted(
    scenario: ScenarioName, *, seconds: float = 1.0, target_qps: float = 200, bound_s: float = 1.0
) -> ScenarioSettings:
    """Short LoadGen settings for tests."""
    server = scenario == "server"
    return ScenarioSettings(
        scenario=scenario,
        min_duration_s=seconds,
        max_duration_s=60,
        target_qps=target_qps if server else None,
        latency_bound_s=bound_s if server else None,
    )


def report(
    candidate: Candidate,
    load: ScenarioSettings,
    *,
    images: NDArray[np.uint8] = IMAGES,
    batch_size: int = 50,
    timeout_s: float = 60,
) -> ScenarioReport:
    """The row of one candidate."""
    scenarios = Scenarios(wanted=load, batch_size=batch_size, timeout_s=timeout_s)
    return scenarios.report("it", candidate, images)


def candidate_of(subject: Subject, runtime: str, *, streams: int = 1) -> Candidate:
    return find_candidates(subject, [runtime], Settings(threads=1, streams=streams))[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("runtime", ["no-op", "onnxruntime"])
def test_loadgen_counts_every_answer_and_gives_a_verdict(
    subject: Subject, runtime: str, scenario: ScenarioName, tmp_path: Path
) -> None:
    row = report(candidate_of(subject, runtime), wanted(scenario))
    assert (row.status, row.reason) == ("measured", None)
    assert row.queries is not None
    assert row.samples is not None
    assert row.samples >= 100
    assert row.queries == (1 if scenario == "offline" else row.samples)
    assert row.batch_size == (1 if scenario == "single-stream" else 50)
    assert row.valid is not bool(row.violations)
    assert row.checked is not None
    assert 0 < row.checked <= row.samples
    assert row.duration_s == pytest.approx(row.samples / row.samples_per_s, rel=0.02)  # type: ignore[operator]
    assert [each.share for each in row.latency_s] == (
        [0.5, 0.9, 0.99, 0.999] * (scenario != "offline")
    )
    assert all(
        (each.value is None) == (each.samples < each.samples_needed) for each in row.latency_s
    )
    assert (row.mlperf_latency_s is not None) == (scenario == "single-stream")
    assert row.session is not None
    assert row.session.runtime == runtime
    assert str(row.loadgen).startswith(str(installed_version("mlcommons-loadgen")))
    assert list(tmp_path.glob("*/*")) == []  # nothing here, and no temporary file left


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_streams_share_the_load(subject: Subject, scenario: ScenarioName) -> None:
    row = report(candidate_of(subject, "onnxruntime", streams=2), wanted(scenario))
    assert (row.status, row.reason) == ("measured", None)
    assert row.session is not None
    assert row.session.streams == 2


def test_impossible_latency_bound_is_invalid_with_a_reason(subject: Subject) -> None:
    row = report(candidate_of(subject, "onnxruntime"), wanted("server", bound_s=1e-6))
    assert (row.status, row.valid) == ("measured", False)
    assert "Performance constraints satisfied: no" in row.violations
    assert "Reduce target QPS to improve latency." in row.violations
    assert any(text.startswith("Run unsuccessful. Processed ") for text in row.violations)


def test_loose_latency_bound_is_valid(subject: Subject) -> None:
    row = report(candidate_of(subject, "no-op"), wanted("server", seconds=4, bound_s=30))
    assert (row.valid, row.violations) == (True, ())


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [*((each, "other logits later") for each in SCENARIOS), ("server", "nan later")],
)
def test_loadgen_answers_must_match_untimed_answers(
    subject: Subject, scenario: ScenarioName, fault: str
) -> None:
    row = report(faulty(subject, fault), wanted(scenario), images=IMAGES[:6])
    assert row.status == "failed"
    assert "LoadGen got logits that differ by up to" in str(row.reason)
    assert (row.valid, row.samples_per_s) == (None, None)


@pytest.mark.parametrize(
    ("scenario", "fault", "status", "reason"),
    [
        ("offline", "slow, raises after 2 s", "crashed", "ValueError: no such operator"),
        ("single-stream", "slow, raises after 2 s", "crashed", "ValueError: no such operator"),
        ("server", "slow, raises after 2 s", "crashed", "ValueError: no such operator"),
        ("offline", "slow, dies after 2 s", "crashed", "SIGSEGV"),
        ("server", "slow, dies after 2 s", "crashed", "SIGSEGV"),
        ("server", "slow, hangs after 2 s", "timed_out", "after 10 s"),
    ],
)
def test_session_failure_under_load_gives_a_failed_row(
    subject: Subject,
    scenario: ScenarioName,
    fault: str,
    status: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_s = 2 if status == "timed_out" else PATIENCE_S
    monkeypatch.setattr("toolkit.measurement.loadgen.RemoteSession", PatientSession)
    load = wanted(scenario, seconds=4, target_qps=50)
    row = report(faulty(subject, fault), load, images=IMAGES[:6], timeout_s=limit_s)
    assert (row.status, row.reason) == (status, reason)
    assert row.queries is None
    assert list(tmp_path.glob("*/*")) == []


def test_failing_candidate_does_not_stop_the_others(subject: Subject, tmp_path: Path) -> None:
    results = start_results(subject, load_dataset("test"))
    candidates = [faulty(subject, "raise"), candidate_of(subject, "no-op")]
    scenarios = Scenarios(wanted=wanted("server"), batch_size=50, timeout_s=PATIENCE_S)
    done = scenarios.run(candidates, IMAGES, results, out=tmp_path / "out")
    assert [row.status for row in done.scenarios] == ["crashed", "measured"]
    assert len({row.name for row in done.scenarios}) == 2
    assert len(done.interference) == 2
    assert done.exit_code == 3
    assert read_results(tmp_path / "out" / "results.json") == done


def test_audit_config_in_the_current_folder_is_ignored(subject: Subject) -> None:
    Path("audit.config").write_text("*.*.max_query_count = 7\n*.*.min_query_count = 7\n")
    row = report(candidate_of(subject, "no-op"), wanted("server"))
    assert row.queries is not None
    assert row.queries >= 100


@dataclass
class OwnSample:
    """A sample of a load without LoadGen."""

    id: int
    index: int


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("at_once", [1, 1000])
def test_streams_answer_each_sample_once_in_batches(streams: int, at_once: int) -> None:
    sizes: list[int] = []
    answered: list[int] = []
    lock = threading.Lock()

    def run(inputs: Any) -> NDArray[np.floating]:
        with lock:
            sizes.append(len(inputs))
        logits: NDArray[np.floating] = inputs.reshape(len(inputs), -1)
        return logits

    def answer(samples: object) -> None:
        with lock:
            answered.extend(sample.id for sample in samples)  # type: ignore[attr-defined]

    library = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    workers = [Stream(run, library, batch_size=32) for _ in range(streams)]
    samples: list[Sample] = [OwnSample(number, number % 10) for number in range(1000)]

    def start(issue: object) -> None:
        for first in range(0, 1000, at_once):
            issue(samples[first : first + at_once])  # type: ignore[operator]

    serve(workers, start, answer)
    assert Counter(answered) == Counter(range(1000))
    assert sum(worker.answered for worker in workers) == sum(sizes) == 1000
    assert max(sizes) <= 32
    for worker in workers:
        for kept in worker.kept:
            assert kept.logits[:, 0].tolist() == kept.indices  # the answers to those images


def test_kept_answers_are_chosen_at_random() -> None:
    """Any part of a long run may be kept, not only its beginning."""
    library = np.zeros((4, 1, 1, 1), np.float32)
    numbers = iter(range(100_000))
    stream = Stream(lambda _: np.full((1, 1), next(numbers)), library, batch_size=1)
    for _ in range(10_000):
        stream.answer([OwnSample(0, 0)], lambda _: None)
    found = sorted(float(each.logits[0, 0]) for each in stream.kept)
    assert len(set(found)) == 128
    assert found[0] < 1000
    assert found[-1] > 9000


def test_violations_are_read_from_the_summary() -> None:
    summary = (
        "Result is : INVALID\n  Performance constraints satisfied : NO\n"
        "  Min duration satisfied : Yes\n  Early stopping satisfied: NO\nRecommendations:\n"
        " * Reduce target QPS to improve latency.\n * The test exited early.\n"
        "   See the detailed log.\nEarly Stopping Result:\n * Run unsuccessful.\n"
        " * Would need more queries,\n with luck.\n\n=====\n"
    )
    assert violations(summary) == [
        "Performance constraints satisfied: no",
        "Early stopping satisfied: no",
        "Reduce target QPS to improve latency.",
        "The test exited early. See the detailed log.",
        "Run unsuccessful. Would need more queries, with luck.",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "server", "--latency-bound", "5"], "needs --target-qps"),
        (["--scenario", "server", "--target-qps", "5"], "needs --latency-bound"),
        (["--scenario", "server", "--target-qps", "0", "--latency-bound", "5"], "--target-qps 0"),
        (["--scenario", "offline", "--target-qps", "5"], "belongs to --scenario server"),
        (["--scenario", "offline", "--latency-bound", "5"], "belongs to --scenario server"),
        (["--scenario", "offline", "--min-time", "0"], "--min-time 0"),
        (["--scenario", "offline", "--min-time", "9", "--max-time", "8"], "raise --max-time"),
        (["--scenario", "single-stream", "--streams", "2"], "one query at a time"),
    ],
)
def test_conflicting_options_are_refused(
    cli: Cli, exports: Path, arguments: list[str], said: str
) -> None:
    done = cli("loadgen", exports, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_scenario_is_refused_in_python_too() -> None:
    with pytest.raises(SettingError, match="expected one of offline, single-stream, server"):
        check_scenario(
            "multi-stream",  # type: ignore[arg-type]
            target_qps=None,
            latency_bound_s=None,
            streams=1,
        )


def test_missing_loadgen_names_the_install_command(exports: Path) -> None:
    code = (
        "import sys; sys.modules['mlperf_loadgen'] = None\n"
        "from toolkit.cli import commands\n"
        f"commands(['loadgen', {str(exports)!r}, '--scenario', 'offline'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    error = done.stderr.splitlines()[-1]  # before it, what a killed command had left may be named
    assert error == "Error: not installed: pip install 'toolkit[loadgen]'"


@pytest.mark.parametrize(
    ("scenario", "seconds", "samples", "expected"),
    [
        ("offline", 600, 24_576, True),
        ("offline", 600, 24_575, False),
        ("offline", 599, 1_000_000, False),
        ("server", 600, 100, True),
        ("single-stream", 10, 1_000_000, False),
    ],
)
def test_submission_length_follows_the_rules(
    scenario: ScenarioName, seconds: float, samples: int, expected: bool
) -> None:
    found = LoadResult(
        valid=True,
        violations=(),
        queries=samples,
        samples=samples,
        duration_s=seconds,
        samples_per_s=1.0,
        latency_s=(),
        mlperf_latency_s=None,
        version="",
    )
    assert is_submission_length(wanted(scenario, seconds=seconds), found) is expected


def test_library_size_is_limited() -> None:
    assert len(library_of(np.zeros((2000, 1, 28, 28), np.uint8))) == 1024
    assert len(library_of(np.zeros((7, 1, 28, 28), np.uint8))) == 7
    assert len(library_of(np.zeros((600, 3, 256, 256), np.uint8))) == 341


def test_command_writes_and_prints_the_rows(cli: Cli, exports: Path, tmp_path: Path) -> None:
    server = ["--scenario", "server", "--target-qps", "200", "--latency-bound", "0.001"]
    common = ["--runtime", "no-op", "--min-time", "1", "--threads", "1", "--out", tmp_path / "out"]
    done = cli("loadgen", exports, *server, *common, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert [row["runtime"] for row in record["scenarios"]] == ["no-op"]
    assert (record["scenarios"][0]["target_qps"], record["measurements"]) == (200, [])
    assert record["scenarios"][0]["latency_bound_s"] == pytest.approx(1e-6)
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| no-op | checkpoint | fp32 | server | INVALID | 100 |" in page


def test_reports_quote_loadgen_and_mark_short_runs(subject: Subject) -> None:
    row = report(faulty(subject, "raise"), wanted("server"))
    measured = replace(
        row,
        status="measured",
        reason=None,
        name="mine",
        valid=False,
        violations=("Min duration satisfied: no", "Increase the target QPS."),
        samples=1000,
        checked=128,
        loadgen="6.0",
    )
    results = start_results(subject, load_dataset("test"))
    both: Results = replace(results, scenarios=(row, measured))
    assert both.exit_code == 3
    assert replace(results, scenarios=(measured,)).exit_code == 0
    for text in (render_table(both), render_markdown(both)):
        assert "crashed: ValueError: no such operator" in text
        assert (
            "mine is INVALID by LoadGen's rules: Min duration satisfied: no; Increase the target"
            in text
        )
        assert "LoadGen 6.0: server, at least 1 s, 200 queries/s (Poisson), 99 % within" in text
        assert "128 of its 1,000 answers were compared" in text
        assert "shorter than a submission" in text
    long = replace(measured, submission_length=True)
    assert "shorter than a submission" not in render_table(replace(results, scenarios=(long,)))
