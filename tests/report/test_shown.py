"""Records that show themselves: a tuning, a comparison, scenarios and a diagnosis."""

from __future__ import annotations

import pytest
from samples import ALL, results_of

from toolkit.schema import (
    TUNING_SCHEMA_VERSION,
    ComparedRow,
    Comparison,
    Configuration,
    Constraints,
    Diagnosis,
    Interference,
    Interval,
    MachineWarning,
    Settings,
    Shown,
    Trial,
    Tuning,
)

SPEED = Interval(value=1000.0, low=900.0, high=1100.0, passes=6)

TRIAL = Trial(
    name="onnxruntime fp32",
    configuration=Configuration(
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        artifact_path="exports/net.onnx",
        artifact_sha256="a" * 64,
        batch_size=100,
        settings=Settings(threads=2),
    ),
    stage=4,
    images_per_s=SPEED,
    to_baseline=None,
    latency_s=0.1,
    size_bytes=4_800_000,
    accuracy=0.99,
    flips=0,
    status="passed",
    reason=None,
    pareto=True,
)

TUNING = Tuning(
    schema_version=TUNING_SCHEMA_VERSION,
    environment=ALL.environment,
    dataset=ALL.dataset,
    checkpoint_sha256="c" * 64,
    constraints=Constraints(),
    wall_s=1.0,
    trials=(TRIAL,),
    baseline="onnxruntime fp32",
    recommended="onnxruntime fp32",
    why="<the only one>",
    confidence="the only one",
)

COMPARISON = Comparison(
    old_time="yesterday",
    new_time="today",
    fail_below=-0.03,
    allow_undecided=False,
    common=None,
    limit_share=None,
    unfit=(),
    machine=(),
    changes=(),
    rows=(
        ComparedRow(
            name="onnxruntime fp32",
            runtime="onnxruntime",
            format="onnx",
            precision="fp32",
            batch_size=100,
            settings=Settings(threads=2),
            old=SPEED,
            new=SPEED,
            ratio=Interval(value=1.0, low=0.99, high=1.01, passes=6),
            verdict="too close to call",
            reason=None,
            old_status="measured",
            new_status="measured",
            same_artifact=True,
            regression=False,
        ),
    ),
)

DIAGNOSIS = Diagnosis(
    environment=ALL.environment,
    interference=Interference(others_cores=0.0, steal_share=None, wall_s=1.0),
    limits=None,
    failure="not measured",
    warnings=(MachineWarning(code="load", message="a load <high>", action="end it"),),
)


@pytest.mark.parametrize(
    "record", [ALL, TUNING, COMPARISON, DIAGNOSIS], ids=lambda r: type(r).__name__
)
def test_record_shows_itself_as_text_and_as_escaped_html(record: Shown) -> None:
    page, text = record._repr_html_(), str(record)
    assert page.startswith(("<table>", "<pre>"))
    assert "<the only" not in page
    assert "<high" not in page
    assert len(text.splitlines()) > 2
    assert "Results(" not in text


def test_frame_of_a_tuning_has_a_row_per_trial() -> None:
    pytest.importorskip("pandas")
    (row,) = TUNING.to_frame().to_dict("records")
    wanted = {
        **{"name": "onnxruntime fp32", "runtime": "onnxruntime", "threads": 2, "stage": 4},
        **{"images_per_s": 1000.0, "images_per_s_low": 900.0, "images_per_s_high": 1100.0},
        **{"size_bytes": 4_800_000, "recommended": True, "pareto": True},
    }
    assert {name: row[name] for name in wanted} == wanted


def test_frame_of_a_comparison_has_a_row_per_candidate() -> None:
    pytest.importorskip("pandas")
    (row,) = COMPARISON.to_frame().to_dict("records")
    assert (row["verdict"], row["ratio"], row["ratio_low"]) == ("too close to call", 1.0, 0.99)


def test_frame_of_a_diagnosis_has_a_row_per_warning() -> None:
    pytest.importorskip("pandas")
    assert list(DIAGNOSIS.to_frame()["code"]) == ["load"]


def test_results_without_rows_show_their_notes() -> None:
    assert results_of()._repr_html_() == ""
