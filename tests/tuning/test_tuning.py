"""Tuning on real runtimes: the recommendation passed, was measured, and can be measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKPOINT, Cli

import toolkit
from toolkit.artifacts.export import export
from toolkit.errors import OutputError, SettingError, ToolkitError, UnknownNameError
from toolkit.measurement.plan import Plan
from toolkit.schema import Constraints, Tuning, to_json

RUNTIMES = ("torchscript", "onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def short_stages() -> Iterator[None]:
    """Shorten all stages: the tests do not need exact speeds."""
    with pytest.MonkeyPatch.context() as patch:
        short = Plan(min_time_s=0.3, min_rounds=6, round_s=0.05, passes=1)
        for name in ("_FIRST", "_SECOND"):
            patch.setattr(f"toolkit.tuning.search.{name}", short)
        for name in ("_LAST", "_FRESH"):
            patch.setattr(f"toolkit.tuning.search.{name}", replace(short, min_rounds=8, passes=2))
        yield


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    export(
        CHECKPOINT, out=folder, formats=["torchscript", "onnx"], precisions=["fp32", "int8-dynamic"]
    )
    return folder


@pytest.fixture(scope="module")
def tuned(artifacts: Path, small_data: Path) -> Tuning:
    return toolkit.tune(
        [artifacts],
        runtimes=RUNTIMES,
        data=small_data,
        batch_size=20,
        out=artifacts.parent,
    )


@pytest.mark.slow
def test_recommendation_passed_the_last_stage_and_is_in_the_pareto_set(
    tuned: Tuning,
) -> None:
    assert tuned.recommended is not None
    best = tuned.trial(tuned.recommended)
    afresh = [each for each in tuned.trials if each.stage == 4]
    assert best.status == "passed"
    assert best in afresh
    assert len(afresh) > 1
    assert best.pareto or tuned.confidence.startswith("too close")
    assert best.to_baseline is not None
    assert tuned.exit_code == 0
    baseline = tuned.trial(tuned.baseline)
    assert baseline.configuration.runtime == "eager"
    assert (baseline.status, baseline.stage, baseline.flips) == ("passed", 4, 0)


@pytest.mark.slow
def test_all_candidates_run_with_one_thread_and_fewer_on_all_cores(tuned: Tuning) -> None:
    stages = [each.stage for each in tuned.trials]
    single = [each for each in tuned.trials if each.configuration.settings.all_threads == 1]
    kinds = {(each.configuration.runtime, each.configuration.precision) for each in single}
    assert kinds == {
        *(("torchscript", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8-dynamic")),
    }
    assert stages.count(3) + stages.count(4) <= stages.count(2) + 6
    assert len({each.name for each in tuned.trials}) == len(tuned.trials)
    assert all(each.accuracy is None for each in tuned.trials if each.stage == 1)


def with_real_paths(tuning: Tuning) -> dict[str, Any]:
    record = to_json(tuning)
    for each in record["trials"]:
        path = Path(each["configuration"]["artifact_path"])
        each["configuration"]["artifact_path"] = path.resolve()
    return record


@pytest.mark.slow
def test_tuning_file_matches_the_result_and_bench_reads_it(
    tuned: Tuning, artifacts: Path, small_data: Path, cli: Cli
) -> None:
    path = artifacts.parent / "tuning.json"
    assert with_real_paths(toolkit.read_tuning(path)) == with_real_paths(tuned)
    quick = ("--min-time", "0.6", "--min-rounds", "8")
    result = cli("bench", "--settings", path, "--data", small_data, *quick, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["measurements"]
    assert tuned.chosen is not None
    assert tuned.chosen.runtime in [row["runtime"] for row in rows]
    for row in rows:
        assert row["batch_size"] == 20
        assert row["settings"] == to_json(tuned.chosen.settings)


@pytest.mark.slow
def test_settings_file_excludes_the_options_that_it_sets(
    tuned: Tuning, artifacts: Path, cli: Cli
) -> None:
    path = artifacts.parent / "tuning.json"
    result = cli("bench", "--settings", path, "--runtime", "eager")
    assert (result.exit_code, "--settings and --runtime" in result.stderr) == (2, True)


@pytest.mark.slow
def test_gates_select_an_exact_candidate_over_a_faster_one_with_flips(artifacts: Path) -> None:
    """8-bit activations flip at least one of 10,000 digits."""
    found = toolkit.tune(
        [artifacts], runtimes=["onnxruntime"], constraints=Constraints(max_flips=0)
    )
    failed = [each for each in found.trials if each.status == "failed"]
    assert failed
    assert all((each.flips or 0) > 0 and not each.pareto for each in failed)
    assert found.chosen is not None
    assert (found.chosen.runtime, found.chosen.precision) == ("onnxruntime", "fp32")
    assert found.recommended != found.baseline  # eager was not requested


@pytest.mark.slow
def test_single_thread_uses_the_same_settings_in_each_stage(
    artifacts: Path, small_data: Path
) -> None:
    found = toolkit.tune(
        [artifacts], runtimes=["onnxruntime"], data=small_data, batch_size=20, threads=1
    )
    assert found.recommended is not None
    assert len({each.name for each in found.trials}) == len(found.trials)
    assert {each.configuration.settings.all_threads for each in found.trials} == {1}


@pytest.mark.slow
def test_eager_can_be_recommended_and_measured_again(artifacts: Path, small_data: Path) -> None:
    found = toolkit.tune([artifacts], runtimes=["eager"], data=small_data, batch_size=20)
    assert found.chosen is not None
    assert found.chosen.runtime == "eager"
    results = toolkit.bench(
        [], data=small_data, tuned=found.chosen, plan=Plan(min_time_s=0.6, min_rounds=6)
    )
    assert [row.runtime for row in results.measurements] == ["eager", "no-op"]
    other = replace(found.chosen, artifact_sha256="f" * 64)
    with pytest.raises(SettingError, match=r"is not the tuned artifact .*tune again"):
        toolkit.bench([], data=small_data, tuned=other)


@pytest.mark.slow
def test_artifact_changed_since_tuning_is_refused(tuned: Tuning, artifacts: Path) -> None:
    assert tuned.chosen is not None
    other = replace(tuned.chosen, artifact_sha256="f" * 64)
    with pytest.raises(SettingError, match=r"is not the tuned artifact .*tune again"):
        toolkit.bench([artifacts], tuned=other)


@pytest.mark.slow
def test_no_recommendation_if_nothing_keeps_the_constraints(
    artifacts: Path, small_data: Path, tmp_path: Path
) -> None:
    found = toolkit.tune(
        [artifacts],
        runtimes=["onnxruntime"],
        precisions=["int8-dynamic"],
        data=small_data,
        batch_size=20,
        constraints=Constraints(max_size_bytes=1000),
        out=tmp_path,
    )
    assert (found.recommended, found.chosen, found.exit_code) == (None, None, 1)
    with pytest.raises(ToolkitError, match=r"contains no recommendation: nothing passed"):
        toolkit.read_tuning(tmp_path / "tuning.json")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precisions": ["int4"]}, UnknownNameError, "unknown precision 'int4'"),
        ({"precisions": ["fp16"]}, SettingError, "the artifacts given are fp32, int8-dynamic"),
        ({"batch_size": 0}, SettingError, "--batch-size 0"),
        ({"constraints": Constraints(max_latency_s=0.0)}, SettingError, "--max-latency 0"),
        ({"constraints": Constraints(max_size_bytes=-1)}, SettingError, "--max-size -1"),
        ({"constraints": Constraints(max_flips=-1)}, SettingError, "--max-flips -1"),
        ({"runtimes": ["none"]}, UnknownNameError, "unknown runtime 'none'"),
        ({"runtimes": ["cudagraph"]}, SettingError, "tune searches on the CPU"),
        ({"timeout_s": -1.0}, SettingError, "--timeout -1"),
        (
            {"out": CHECKPOINT / "weights.safetensors"},
            OutputError,
            "[Nn]ot a directory|File exists",
        ),
    ],
)
def test_bad_input_is_refused(
    artifacts: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        toolkit.tune([artifacts], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"schema_version": 99}'])
def test_broken_tuning_file_is_refused(tmp_path: Path, content: bytes, cli: Cli) -> None:
    path = tmp_path / "tuning.json"
    path.write_bytes(content)
    result = cli("bench", "--settings", path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "toolkit tune --out" in result.stderr
