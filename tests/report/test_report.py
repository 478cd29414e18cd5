"""Reports of handmade results: table, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace

import pytest
from samples import ALL, CRASHED, MEASURED, NO_OP, PASSED, UNMEASURED, results_of

from toolkit.errors import SettingError
from toolkit.report.columns import summarise
from toolkit.report.csv import render_csv
from toolkit.report.markdown import render_markdown
from toolkit.report.notes import notes
from toolkit.report.parity import status_text
from toolkit.report.table import render_table
from toolkit.schema import (
    Artifact,
    Cause,
    Check,
    GpuLimits,
    GpuState,
    Interval,
    Limits,
    MachineWarning,
    Measurement,
    Rank,
    Results,
    Settings,
    Status,
    WorstImage,
)


def markdown_table(results: Results) -> list[list[str]]:
    """Heading and rows of the page's table, as cells, without the line of dashes."""
    lines = [line for line in render_markdown(results).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]
    assert all(set(cell) <= {"-", ":"} for cell in cells[1])
    assert len({len(line) for line in cells}) == 1
    return [cells[0], *cells[2:]]


def csv_rows(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_csv(results)), strict=True))


FAILED = replace(
    PASSED,
    status="failed",
    reason="logits are up to 900 noise floors (1.4e-03) from the checkpoint's, at most 20 allowed",
    max_diff_in_floors=900.0,
    cause=Cause(kind="softmax", text="The output is the softmax.", action="the export's last line"),
    checks=(
        Check(
            name="one image at a time",
            images=200,
            batch_size=1,
            difference=1.0,
            floors=1e3,
            reason="logits are off",
        ),
    ),
    worst=(
        WorstImage(
            index=340,
            label=5,
            reference=5,
            candidate=3,
            margin=2.125,
            difference=0.875,
            floors=900.0,
        ),
    ),
)


def test_failed_row_shows_reason_cause_and_worst_images() -> None:
    text = render_table(results_of(FAILED))
    assert "failed: logits are up to 900 noise floors" in text
    assert "[softmax]" in text
    assert "Cause: The output is the softmax." in text
    assert "Look at: the export's last line" in text
    assert "Second look, one image at a time: logits are off." in text
    assert "#340 (label 5): checkpoint 5 by 2.1, here 3, logits 0.88 away (900 floors)" in text


def test_rows_that_differ_only_in_their_file_name_it() -> None:
    other = replace(FAILED, artifact_sha256="b" * 64, file="other.onnx")
    heading, *rows = markdown_table(results_of(PASSED, other))
    column = heading.index("file")
    assert [row[column] for row in rows] == ["mnist-cnn.onnx", "other.onnx"]
    assert "file" not in markdown_table(results_of(PASSED))[0]


def test_remark_shared_by_all_rows_appears_once() -> None:
    remarked = replace(PASSED, remarks=("no image is labelled 7",))
    text = render_table(results_of(remarked, replace(remarked, runtime="openvino")))
    assert text.count("Note: no image is labelled 7.") == 1


def test_float32_reference_is_reported() -> None:
    assert "in float64." in " ".join(notes(results_of(PASSED)))
    fixed = replace(PASSED, reference_precision="fp32")
    assert "it cannot run in float64" in " ".join(notes(results_of(fixed)))


def test_parity_and_measurement_of_a_candidate_share_one_row() -> None:
    rows = summarise(ALL)
    assert [row.runtime for row in rows] == ["onnxruntime", "ncnn", "no-op"]
    assert [row.parity for row in rows] == [PASSED, CRASHED, None]
    assert [row.measurement for row in rows] == [MEASURED, UNMEASURED, NO_OP]


def test_artifacts_that_differ_only_in_their_bytes_are_two_rows() -> None:
    other = replace(PASSED, artifact_sha256="b" * 64)
    assert [row.parity for row in summarise(results_of(PASSED, other, MEASURED))] == [PASSED, other]
    assert summarise(results_of(other, MEASURED))[0].measurement is None


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        ("passed", None, "passed"),
        ("failed", "3 flips, at most 0 allowed", "failed: 3 flips, at most 0 allowed"),
        ("crashed", "SIGSEGV", "crashed: SIGSEGV"),
        ("timed_out", "after 60 s", "timed out: after 60 s"),
        ("out_of_memory", "bad_alloc", "out of memory: bad_alloc"),
        ("not_installed", "pip install x", "not installed: pip install x"),
    ],
)
def test_status_text_includes_the_reason(status: Status, reason: str | None, text: str) -> None:
    assert status_text(status, reason) == text
    assert text in render_table(results_of(replace(CRASHED, status=status, reason=reason)))


def test_table_has_one_line_per_candidate() -> None:
    lines = render_table(ALL).splitlines()
    for runtime in ("onnxruntime", "ncnn", "no-op"):
        assert sum(line.split()[:1] == [runtime] for line in lines) == 1
    (passed,) = (line for line in lines if line.startswith("onnxruntime"))
    for text in ("passed", "10,000/10,000", "99.14%", "2 (2 benign)", "1.2e-05", "8.10", "9.30"):
        assert text in passed
    assert "12,346 [12,000-13,001]" in passed
    (crashed,) = (line for line in lines if line.startswith("ncnn"))
    assert "crashed: SIGSEGV" in crashed
    assert "timed out: after 60 s" in crashed
    assert "0/10,000" in crashed


@pytest.mark.parametrize("reason", ["[bold]x[/bold] [/] [95 %]", "a | b", "ümläut ∞"])
def test_table_prints_reasons_verbatim(reason: str) -> None:
    assert f"crashed: {reason}" in render_table(results_of(replace(CRASHED, reason=reason)))


def test_table_prints_colons_verbatim() -> None:
    reason = "RuntimeError: node :key: not found"
    assert reason in render_table(results_of(replace(CRASHED, reason=reason)))


@pytest.mark.parametrize("width", range(60, 300, 9))
def test_a_narrow_table_leaves_out_columns_and_names_them(width: int) -> None:
    """The important columns stay at any width: the runtime, the verdict and the speed."""
    shown = render_table(ALL, width=width)
    heading = shown.splitlines()[0]
    named = shown.partition("Not shown because the terminal is too narrow: ")[2].removesuffix(
        "; see --json."
    )
    dropped = named.split(", ") if named else []
    everything = markdown_table(ALL)[0]
    assert all((column in heading) != (column in dropped) for column in everything)
    assert not {"runtime", "parity", "accuracy", "flips", "images/s [95 %]"} & set(dropped)
    if {"format", "precision", "max diff"} - set(dropped):
        assert max(map(len, shown.splitlines()[:5])) <= width


def test_table_that_fits_keeps_all_columns() -> None:
    assert render_table(ALL, width=300) == render_table(ALL)
    assert "Not shown" not in render_table(ALL)


def test_columns_without_content_are_left_out() -> None:
    parity, measured, everything = (
        markdown_table(results)[0] for results in (results_of(PASSED), results_of(MEASURED), ALL)
    )
    assert parity[:5] == ["runtime", "format", "precision", "parity", "compared"]
    assert parity[5:] == ["accuracy", "flips", "max diff", "in floors"]
    assert not {"parity", "compared", "accuracy", "flips", "max diff"} & set(measured)
    assert {"images/s [95 %]", "median ms", "memory MB", "size MB"} <= set(measured)
    assert set(parity) | set(measured) == set(everything)
    crashed = markdown_table(results_of(CRASHED))
    assert crashed == [
        ["runtime", "format", "precision", "parity", "compared"],
        ["ncnn", "onnx", "fp32", "crashed: SIGSEGV", "0/10,000"],
    ]


def test_zero_flips_and_zero_values_are_shown() -> None:
    exact = replace(PASSED, flips=0, benign_flips=0, max_abs_diff=0.0)
    row = dict(zip(*markdown_table(results_of(exact)), strict=True))
    assert (row["flips"], row["max diff"]) == ("0 of 10,000: ≤ 0.037%", "0.0e+00")


def test_markdown_has_one_line_per_candidate_and_the_context() -> None:
    heading, *rows = markdown_table(ALL)
    assert [row[0] for row in rows] == ["onnxruntime", "ncnn", "no-op"]
    passed = dict(zip(heading, rows[0], strict=True))
    assert passed["images/s [95 %]"] == "12,346 [12,000-13,001]"
    assert (passed["memory MB"], passed["size MB"]) == ("123", "4.80")
    assert (passed["load s"], passed["first ms"]) == ("0.25", "12")
    page = render_markdown(ALL)
    for text in ("# mnist-cnn", "c" * 64, "10,000 images", "a processor", "torch 2.11.0"):
        assert text in page


def test_pipes_are_escaped_in_markdown() -> None:
    page = render_markdown(results_of(replace(CRASHED, reason="a | b|c")))
    assert "crashed: a \\| b\\|c |" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| ncnn"))
    assert row.replace("\\|", "").count("|") == 6


def test_two_line_reason_stays_in_one_markdown_row() -> None:
    page = render_markdown(results_of(replace(CRASHED, reason="first\nsecond")))
    (row,) = (line for line in page.splitlines() if line.startswith("| ncnn"))
    assert row.endswith("|")


def test_no_op_runtime_shows_harness_overhead_and_no_throughput() -> None:
    heading, *rows = markdown_table(ALL)
    assert dict(zip(heading, rows[2], strict=True))["images/s [95 %]"] == "—"
    for text in (render_table(ALL), render_markdown(ALL)):
        assert "the no-op runtime takes 8.1 µs per call, 0.10% of the fastest real runtime" in text
        assert "noise floor of an image: typically 1.5e-06, at most 2.0e-05" in text
    for text in (render_table(results_of(CRASHED)), render_markdown(results_of(MEASURED))):
        assert "no-op" not in text
        assert "float32" not in text


def test_copies_of_an_artifact_are_reported_as_one_row() -> None:
    def record(format: str, path: str, sha256: str) -> Artifact:
        return Artifact(
            format=format,
            precision="fp32",
            path=path,
            size_bytes=1,
            sha256=sha256 * 64,
            checkpoint_sha256="c" * 64,
            spec_sha256="d" * 64,
            input_shape=(1, 28, 28),
            classes=10,
        )

    one, copy, other = (record("onnx", name, sha) for name, sha in ("1a", "2a", "3b"))
    twice = replace(results_of(PASSED), artifacts=(one, copy, other))
    once = replace(results_of(PASSED), artifacts=(one, other))
    for render in (render_table, render_markdown):
        assert "the same bytes share one row: 1." in render(twice)
        assert "same bytes" not in render(once)


def test_csv_parses_back_to_the_raw_values() -> None:
    """Nothing is rounded or scaled; unknown values are empty."""
    passed, crashed, null = csv_rows(ALL)
    wanted = {
        "runtime": "onnxruntime",
        "format": "onnx",
        "precision": "fp32",
        "input": "float32",
        "artifact_sha256": "a" * 64,
        "parity_status": "passed",
        "parity_reason": None,
        **{name: getattr(PASSED, name) for name in ("compared", "expected", "accuracy")},
        **{name: getattr(PASSED, name) for name in ("reference_accuracy", "argmax_agreement")},
        **{name: getattr(PASSED, name) for name in ("flips", "benign_flips", "nan_count")},
        **{name: getattr(PASSED, name) for name in ("max_abs_diff", "mean_abs_diff")},
        **{name: getattr(PASSED, name) for name in ("max_diff_in_floors", "rms_error", "file")},
        "name": "onnxruntime fp32",
        "measurement_status": "measured",
        "measurement_reason": None,
        **{"batch_size": 100, "threads": 2, "streams": 1, "device": "cpu"},
        **{"keep_memory": False, "page_faults": 12.5},
        **{"passes": 2, "rounds": 20, "outliers": 3},
        **{"images_per_s": 12345.678901, "images_per_s_low": 12000.25},
        **{"images_per_s_high": 13000.75, "to_baseline": 2.5, "to_baseline_low": 2.375},
        **{"to_baseline_high": 2.625, "limit_share": 0.4375, "repeat_ratio": 1.01},
        **{"latency_median_s": 0.0081, "latency_p90_s": 0.0093, "latency_p99_s": None},
        **{"import_s": 0.1, "load_s": 0.25, "first_inference_s": 0.012},
        **{"peak_memory_bytes": 123_456_789, "artifact_size_bytes": 4_800_000},
    }
    assert passed == {name: "" if each is None else str(each) for name, each in wanted.items()}
    known = {name for name, text in crashed.items() if text}
    assert known == {
        *("runtime", "format", "precision", "input", "artifact_sha256"),
        *("parity_status", "parity_reason"),
        *("compared", "expected", "file", "name", "measurement_status", "measurement_reason"),
        "batch_size",
        *("threads", "streams", "device", "keep_memory", "passes", "rounds", "artifact_size_bytes"),
    }
    assert (crashed["rounds"], null["parity_status"], null["latency_median_s"]) == (
        *("0", "", "8.1e-06"),
    )


@pytest.mark.parametrize("reason", ['say "no", twice', "two\nlines", "a | b", "; ' ,,"])
def test_csv_keeps_any_reason_in_its_cell(reason: str) -> None:
    (row,) = csv_rows(results_of(replace(CRASHED, reason=reason)))
    assert (row["parity_status"], row["parity_reason"]) == ("crashed", reason)
    assert row["measurement_status"] == ""


def test_csv_columns_do_not_depend_on_the_rows() -> None:
    headings = {render_csv(one).splitlines()[0] for one in (ALL, results_of(), results_of(NO_OP))}
    assert len(headings) == 1
    assert csv_rows(results_of()) == []


def interval(value: float, *, passes: int = 4) -> Interval:
    return Interval(value=value, low=0.9 * value, high=1.1 * value, passes=passes)


def measured(name: str, **changes: object) -> Measurement:
    found = replace(MEASURED, name=name, runtime=name.partition(" ")[0])
    return replace(found, **changes)  # type: ignore[arg-type]


def ranked(*places: tuple[str, bool]) -> tuple[Rank, ...]:
    """Return ranks for names, fastest first, with whether each is too close to the one before; a
    name that starts with `|` begins a new table."""
    ranks = []
    for number, (name, close) in enumerate(places):
        first = number == 0 or name.startswith("|")
        rank = Rank(
            name=name.removeprefix("|"),
            speed=interval(100 - number),
            to_faster=None if first else Interval(value=0.99, low=0.97, high=1.01, passes=4),
            too_close=close,
            longer=2.5 if close else None,
        )
        ranks.append(rank)
    return tuple(ranks)


def column(results: Results, heading: str) -> list[str]:
    headings, *rows = markdown_table(results)
    return [row[headings.index(heading)] for row in rows]


def test_rows_are_sorted_by_speed_and_ties_are_marked() -> None:
    rows = [measured(name) for name in ("a", "b", "c", "d")]
    ranking = ranked(("d", False), ("b", True), ("a", False), ("c", True))
    results = replace(results_of(*rows), ranking=ranking)
    assert column(results, "runtime") == ["d", "b", "a", "c"]
    assert column(results, "place") == ["1", "2=", "3", "4="]


def test_places_restart_for_each_setting() -> None:
    rows = [measured("a"), measured("b"), measured("a one", batch_size=1)]
    results = results_of(*rows, measured("b one", batch_size=1))
    ranking = ranked(("a", False), ("b", False), ("|b one", False), ("a one", False))
    results = replace(results, ranking=ranking)
    assert column(results, "place") == ["1", "2", "1", "2"]
    assert column(results, "batch") == ["100", "100", "1", "1"]


def test_unmeasured_rows_come_last_without_a_place() -> None:
    rows = [replace(UNMEASURED, name="ncnn"), measured("a")]
    results = replace(results_of(*rows), ranking=ranked(("a", False)))
    assert column(results, "runtime") == ["a", "ncnn"]
    assert column(results, "place") == ["1", ""]


def test_close_call_reports_how_many_rounds_would_decide_it() -> None:
    results = replace(results_of(MEASURED), ranking=ranked(("a", False), ("b", True)))
    wanted = (
        "Too close to call: b and a (0.990 times as fast [0.970-1.010]); "
        "about 2.5 times as many rounds are needed to decide."
    )
    assert wanted in notes(results)
    hopeless = tuple(replace(each, longer=None) for each in results.ranking)
    assert "even 100 times as many rounds might not be enough to decide" in " ".join(
        notes(replace(results, ranking=hopeless))
    )
    few = tuple(replace(each, reason="needs six passes") for each in results.ranking)
    assert "[0.970-1.010]); needs six passes." in " ".join(notes(replace(results, ranking=few)))
    assert "Too close" not in " ".join(
        notes(replace(results, ranking=ranked(("a", False), ("b", False))))
    )


@pytest.mark.parametrize(
    ("heading", "changes", "texts"),
    [
        ("batch", {"batch_size": 1}, ["100", "1"]),
        ("threads", {"settings": Settings(threads=1)}, ["2", "1"]),
        ("streams", {"settings": Settings(threads=2, streams=4)}, ["1", "4"]),
    ],
)
def test_setting_is_a_column_only_if_it_varies(
    heading: str, changes: dict[str, object], texts: list[str]
) -> None:
    one, other = measured("a"), measured("a again", **changes)
    assert column(results_of(one, other), heading) == texts
    assert {"batch", "threads", "streams"} & set(markdown_table(results_of(one, other))[0]) == {
        heading
    }
    assert {"batch", "threads", "streams"}.isdisjoint(markdown_table(results_of(one))[0])


def test_one_candidate_at_two_batch_sizes_is_two_rows_with_one_verdict() -> None:
    rows = summarise(results_of(PASSED, MEASURED, replace(MEASURED, name="b", batch_size=1)))
    assert [row.parity for row in rows] == [PASSED, PASSED]
    assert [row.measurement.batch_size for row in rows if row.measurement] == [100, 1]


def test_baseline_shows_1_and_others_show_their_ratio() -> None:
    base = measured("eager", to_baseline=Interval(value=1.0, low=1.0, high=1.0, passes=2))
    results = replace(results_of(base, MEASURED, UNMEASURED, NO_OP), baseline="eager")
    assert column(results, "x baseline [95 %]") == ["1", "2.50 [2.38-2.62]", "", ""]


def test_percentile_without_enough_calls_says_how_many_it_needs() -> None:
    assert column(results_of(MEASURED), "p99 ms") == ["needs 299 calls"]
    assert column(results_of(MEASURED), "p90 ms") == ["9.30"]


def test_limit_and_share_of_the_limit_are_reported() -> None:
    limits = Limits(threads=2, float32_flops_per_s=2e11, int8_ops_per_s=None, copy_bytes_per_s=1e10)
    results = replace(results_of(MEASURED), limits=limits, flops_per_image=24_000_000)
    assert column(results, "% of limit") == ["44"]
    text = " ".join(notes(results))
    assert "Limit: 200 GFLOP/s in float32 matrix products with 2 threads" in text
    assert "24.0 MFLOP per image" in text
    assert "Limit:" not in " ".join(notes(replace(results, flops_per_image=None)))


def test_gpu_limits_and_state_are_reported() -> None:
    gpu = GpuLimits(
        name="a GPU",
        float32_flops_per_s=5e13,
        tf32_flops_per_s=None,
        bfloat16_flops_per_s=7e14,
        float16_flops_per_s=6e14,
        copy_bytes_per_s=1e12,
        pinned_bytes_per_s=1e10,
        pageable_bytes_per_s=1e9,
    )
    limits = Limits(
        threads=2, float32_flops_per_s=2e11, int8_ops_per_s=None, copy_bytes_per_s=1e10, gpu=gpu
    )
    states = [
        GpuState(clock_hz=clock_hz, power_w=power_w, temperature_c=40.0)
        for clock_hz, power_w in ((345e6, 80.0), (1.9e9, 300.0), (1.98e9, None), (1.98e9, 90.0))
    ]
    (one, *_) = MEASURED.passes
    watched = replace(one, rounds=(replace(one.rounds[0], gpu=tuple(states)),))
    row = replace(MEASURED, settings=replace(MEASURED.settings, device="cuda"), passes=(watched,))
    results = replace(results_of(row), limits=limits, flops_per_image=24_000_000)
    text = " ".join(notes(results))
    assert (
        "Limit: on a GPU 50.0 in float32, 700.0 in bfloat16, 600.0 in float16 TFLOP/s in matrix "
        "products (each row refers to the arithmetic that it attests), measured on this machine"
    ) in text
    assert "GPU in the rounds: 1.90 to 1.98 GHz, 300 to 300 W, 40 to 40 °C." in text
    assert "GPU in the rounds" not in " ".join(notes(results_of(MEASURED)))


def test_outliers_are_counted_without_those_of_no_op() -> None:
    assert "Outliers: 3 of 40 calls. They are counted and kept." in notes(
        results_of(MEASURED, NO_OP)
    )
    assert "Outliers" not in " ".join(notes(results_of(PASSED)))


def test_intervals_report_their_number_of_passes() -> None:
    assert "over 2 passes of interleaved rounds" in " ".join(notes(results_of(MEASURED, NO_OP)))


def test_warnings_are_reported_with_their_action() -> None:
    warning = MachineWarning(code="wide", message="intervals are wide", action="measure longer")
    results = replace(results_of(MEASURED), warnings=(warning,))
    for text in (render_table(results), render_markdown(results)):
        assert "Warning: intervals are wide → measure longer." in text


def test_interruption_is_reported() -> None:
    for render in (render_table, render_markdown):
        assert "Interrupted" not in render(ALL)
        assert "Interrupted: these results are valid" in render(replace(ALL, interrupted=True))


def test_column_that_tells_two_rows_apart_is_never_left_out() -> None:
    """At any width; columns that say nothing go first."""
    twins = (
        *(measured("a fp32", format="onnx"), measured("a int8", format="onnx", precision="int8")),
        *(measured("a fp32 ort", format="ort"), measured("a batch 1", format="onnx", batch_size=1)),
        measured("a threads", format="onnx", settings=Settings(threads=1)),
    )
    for width in range(20, 200, 7):
        shown = render_table(results_of(*twins), width=width)
        heading = shown.splitlines()[0].split()
        for needed in ("format", "precision", "batch", "threads"):
            assert needed in heading, (width, needed)
    assert "outliers" not in render_table(results_of(*twins), width=60).splitlines()[0]
    alone = render_table(results_of(twins[0]), width=60).splitlines()[0]
    assert "format" not in alone


def test_no_cell_of_the_csv_is_a_missing_value_to_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(render_csv(ALL)))
    assert list(frame["runtime"]) == ["onnxruntime", "ncnn", "no-op"]
    assert frame[["runtime", "format", "precision", "name"]].notna().all(axis=None)


def test_frame_has_the_columns_and_values_of_the_csv() -> None:
    pandas = pytest.importorskip("pandas")
    frame = ALL.to_frame()
    read = pandas.read_csv(io.StringIO(render_csv(ALL)))
    assert list(frame.columns) == list(read.columns)
    assert list(frame["images_per_s"])[:1] == list(read["images_per_s"])[:1] == [12345.678901]
    assert list(frame["parity_status"])[:2] == ["passed", "crashed"]
    assert results_of().to_frame().empty


def test_missing_pandas_is_an_error_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match=r"package pandas; install it with: pip install pandas$"):
        ALL.to_frame()


def test_results_show_themselves_in_a_notebook_and_in_print() -> None:
    page = ALL._repr_html_()
    assert page.count("<tr>") == 4
    assert "12,346 [12,000-13,001]" in page
    assert "noise floor of an image" in page
    assert str(ALL) == render_table(ALL)


def test_text_of_a_stranger_is_escaped_in_html_and_cannot_steer_the_terminal() -> None:
    hostile = replace(CRASHED, reason="<script>alert(1)</script>\x1b[2J")
    assert "<script>" not in results_of(hostile)._repr_html_()
    assert "\x1b" not in str(results_of(hostile))


def test_quick_results_say_what_was_left_out() -> None:
    sample = replace(ALL.dataset, images=500, drawn_from=10_000)
    quick = replace(ALL, quick=True, dataset=sample)
    for text in (render_table(quick), render_markdown(quick), quick._repr_html_()):
        assert "Quick: 500 of 10,000 images were compared" in text
        assert "speeds were measured for a short time" in text
    assert "500 of 10,000 images" in render_markdown(quick)
    assert "Quick" not in render_table(ALL)
