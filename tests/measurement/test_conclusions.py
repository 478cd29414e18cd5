"""Handmade tallies → rows: names, baselines, ranks, shares of the limit, failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import results_of, tally

from toolkit.errors import Crashed, FailedRun, TimedOut, WrongOutput
from toolkit.measurement.conclusions import conclude, distinct_names
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.schema import (
    Attestation,
    GpuLimits,
    Interference,
    Limits,
    Measurement,
    Results,
    Settings,
)

SAME = (0.1, 0.1, 0.1)
HALF = (0.05, 0.05, 0.05)


def concluded(
    *tallies: Tally, baseline: str | None = None, results: Results | None = None
) -> Results:
    passes = Passes(
        tallies=tallies,
        images=np.zeros((1, 1, 28, 28), np.uint8),
        plan=Plan(),
        timeout_s=1.0,
    )
    passes.interference.append(Interference(wall_s=1.0, others_cores=0.0, steal_share=0.0))
    return conclude(results or results_of(), passes, baseline=baseline)


def ratios(results: Results) -> dict[str, float | None]:
    return {
        row.name: round(row.to_baseline.value, 6) if row.to_baseline else None
        for row in results.measurements
    }


def test_eager_is_the_default_baseline() -> None:
    results = concluded(tally("a", *HALF), tally("eager", *SAME), tally("no-op", *SAME))
    assert results.baseline == "eager"
    assert ratios(results) == {"a fp32": 2.0, "eager fp32": 1.0, "no-op fp32": None}


def test_baseline_is_the_named_one_or_else_the_first() -> None:
    both = tally("a", *HALF), tally("b", *SAME)
    assert concluded(*both).baseline == "a"
    assert ratios(concluded(*both)) == {"a fp32": 1.0, "b fp32": 0.5}
    assert ratios(concluded(*both, baseline="b")) == {"a fp32": 2.0, "b fp32": 1.0}


def test_single_candidate_has_no_baseline() -> None:
    assert concluded(tally("a", *SAME), tally("no-op", *SAME)).baseline is None


def test_baseline_has_the_same_settings_and_batch_size() -> None:
    results = concluded(
        tally("eager", *SAME),
        tally("eager", *HALF, batch_size=1),
        tally("a", *HALF),
        tally("a", *HALF, batch_size=1),
        tally("a", *HALF, threads=2),
    )
    found = [row.to_baseline and round(row.to_baseline.value, 6) for row in results.measurements]
    assert found == [1.0, 1.0, 2.0, 1.0, None]


def test_failed_baseline_gives_no_ratio() -> None:
    results = concluded(tally("eager", *SAME, failure=Crashed("SIGSEGV")), tally("a", *HALF))
    assert [row.to_baseline for row in results.measurements] == [None, None]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Crashed("SIGSEGV"), "crashed"),
        (TimedOut("after 1 s"), "timed_out"),
        (WrongOutput("other logits"), "failed"),
    ],
)
def test_failed_row_keeps_its_passes_without_a_speed(failure: FailedRun, status: str) -> None:
    failure.stderr_tail = "boom"
    results = concluded(tally("a", *SAME, failure=failure), tally("b", *HALF))
    row = results.measurements[0]
    assert (row.status, row.reason, row.stderr_tail) == (status, failure.reason, "boom")
    assert len(row.passes) == 3
    assert (row.images_per_s, row.to_baseline, row.repeat_ratio) == (None, None, None)
    assert (row.limit_share, row.latency_s, row.outliers) == (None, (), None)
    assert [each.name for each in results.ranking] == ["b fp32"]


def test_too_few_rounds_for_an_interval_give_no_measurement() -> None:
    (row,) = concluded(tally("a", 0.1)).measurements
    assert (row.status, row.images_per_s) == ("too_short", None)
    assert row.reason == (
        "4 rounds are too few for an interval; allow more time with `toolkit bench --max-time`"
    )


def test_single_runtime_at_its_settings_has_no_ratio() -> None:
    results = concluded(tally("a", *SAME), tally("a", *HALF, batch_size=1))
    assert [row.to_baseline for row in results.measurements] == [None, None]


def test_limit_share_is_not_reported_for_other_devices() -> None:
    limits = Limits(threads=1, float32_flops_per_s=1e10, int8_ops_per_s=None, copy_bytes_per_s=1e9)
    known = replace(results_of(), limits=limits, flops_per_image=1_000_000)
    one = tally("a", *SAME)
    on_cuda = replace(
        one, candidate=replace(one.candidate, settings=Settings(threads=1, device="cuda"))
    )
    shares = [row.limit_share for row in concluded(one, on_cuda, results=known).measurements]
    assert shares[0] is not None
    assert shares[1] is None


@pytest.mark.parametrize(
    ("arithmetic", "flops_per_s"),
    [
        *(("float32", 5e13), ("float32 (Winograd)", 5e13), ("TF32", 4e14), ("bfloat16", 7e14)),
        *(("float16", 6e14), ("int8", None), ("unknown", None), ("", None)),
    ],
)
def test_limit_share_on_a_gpu_uses_the_limit_of_the_attested_arithmetic(
    arithmetic: str, flops_per_s: float | None
) -> None:
    gpu = GpuLimits(
        name="a GPU",
        float32_flops_per_s=5e13,
        tf32_flops_per_s=4e14,
        bfloat16_flops_per_s=7e14,
        float16_flops_per_s=6e14,
        copy_bytes_per_s=1e12,
        pinned_bytes_per_s=1e10,
        pageable_bytes_per_s=1e9,
    )
    limits = Limits(
        threads=1, float32_flops_per_s=1e10, int8_ops_per_s=None, copy_bytes_per_s=1e9, gpu=gpu
    )
    known = replace(results_of(), limits=limits, flops_per_image=1_000_000)
    one = tally("a", *SAME)
    attested = Attestation(
        runtime="a",
        version="1",
        provider="a GPU",
        device="cuda",
        precision="fp32",
        threads=1,
        arithmetic=arithmetic,
    )
    on_cuda = replace(
        one,
        candidate=replace(one.candidate, settings=Settings(threads=1, device="cuda")),
        attestation=attested,
    )
    (row,) = concluded(on_cuda, results=known).measurements
    expected = None if flops_per_s is None else 1000 * 1e6 / flops_per_s
    assert row.limit_share == (None if expected is None else pytest.approx(expected))


def test_stop_by_max_time_is_reported() -> None:
    passes = Passes(
        tallies=[tally("a", *SAME)],
        images=np.zeros((1, 1, 28, 28), np.uint8),
        plan=Plan(target_width=0.01, max_time_s=60),
        timeout_s=1.0,
        stopped=True,
    )
    (warning,) = conclude(results_of(), passes, baseline=None).warnings
    assert warning.code == "stopped"
    assert warning.message.startswith("the time limit of 60 s ended the measurement after 3 of")
    assert "8 passes and ± 1.0%" in warning.message


def test_load_times_are_from_the_first_pass_and_memory_is_the_maximum() -> None:
    (row,) = concluded(tally("a", *SAME)).measurements
    assert (row.import_s, row.load_s, row.first_inference_s) == (0.1, 0.2, 0.3)
    assert row.peak_memory_bytes == 2_000_000
    (empty,) = concluded(tally("a", failure=Crashed("x"))).measurements
    assert (empty.import_s, empty.peak_memory_bytes, empty.passes) == (None, None, ())


def test_limit_share_is_achieved_flops_divided_by_the_limit() -> None:
    limits = Limits(threads=1, float32_flops_per_s=1e10, int8_ops_per_s=None, copy_bytes_per_s=1e9)
    known = replace(results_of(), limits=limits, flops_per_image=1_000_000)
    row, null = concluded(tally("a", *SAME), tally("no-op", *SAME), results=known).measurements
    assert row.limit_share == pytest.approx(1000 * 1e6 / 1e10)
    assert null.limit_share is None
    for unknown in (replace(known, limits=None), replace(known, flops_per_image=None)):
        assert concluded(tally("a", *SAME), results=unknown).measurements[0].limit_share is None


def test_ranks_are_within_equal_settings() -> None:
    results = concluded(
        tally("a", *SAME),
        tally("a", *SAME, batch_size=1),
        tally("b", *HALF),
        tally("b", *HALF, batch_size=1),
        tally("no-op", 1e-6, 1e-6, 1e-6),
    )
    assert [(each.name, each.to_faster is None) for each in results.ranking] == [
        *(("b fp32, batch 100", True), ("a fp32, batch 100", False)),
        *(("b fp32, batch 1", True), ("a fp32, batch 1", False)),
    ]


def test_no_op_runtime_has_no_ratio_and_no_warning() -> None:
    results = concluded(tally("no-op", *SAME, repeated_s=0.01), tally("a", *SAME, repeated_s=0.01))
    null, real = results.measurements
    assert null.repeat_ratio is None
    assert real.repeat_ratio is not None
    (warning,) = (each for each in results.warnings if each.code == "cached")
    assert "a fp32" in warning.message
    assert "no-op" not in warning.message


def test_streams_count_as_threads_when_cores_are_few() -> None:
    """The handmade environment has 2 cores."""
    few, many = (concluded(tally("a", *SAME, streams=count)) for count in (2, 3))
    assert "threads" not in {each.code for each in few.warnings}
    assert "threads" in {each.code for each in many.warnings}


def named(*tallies: Tally) -> list[str]:
    return distinct_names(tallies)


def test_names_are_as_short_as_possible() -> None:
    assert named(tally("a"), tally("b")) == ["a fp32", "b fp32"]
    assert named(tally("a"), tally("a", format="ort"), tally("b")) == [
        *("a fp32, onnx", "a fp32, ort", "b fp32"),
    ]
    assert named(tally("a"), tally("a", batch_size=1)) == ["a fp32, batch 100", "a fp32, batch 1"]
    assert named(tally("a"), tally("a", threads=2)) == ["a fp32, 1 thread", "a fp32, 2 threads"]
    assert named(tally("a"), tally("a", streams=2)) == ["a fp32, 1 stream", "a fp32, 2 streams"]
    assert named(tally("a"), tally("a")) == ["a fp32", "a fp32 #2"]


@given(
    st.lists(
        st.builds(
            tally,
            st.sampled_from(["a", "b"]),
            format=st.sampled_from(["onnx", "ort"]),
            batch_size=st.sampled_from([1, 10]),
            threads=st.sampled_from([1, 2]),
            streams=st.sampled_from([1, 2]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_names_are_always_distinct(tallies: list[Tally]) -> None:
    names = distinct_names(tallies)
    assert len(set(names)) == len(names) == len(tallies)
    assert all(
        name.startswith(f"{each.candidate.runtime.name} fp32")
        for name, each in zip(names, tallies, strict=True)
    )


def test_rows_are_in_the_order_of_the_tallies_and_name_what_was_measured() -> None:
    rows: tuple[Measurement, ...] = concluded(
        tally("b", *SAME, batch_size=7, threads=2, format="ort"), tally("a", *SAME)
    ).measurements
    assert [row.runtime for row in rows] == ["b", "a"]
    assert (rows[0].batch_size, rows[0].settings.threads, rows[0].format) == (7, 2, "ort")
    assert rows[0].images_per_s is not None
    assert rows[0].images_per_s.value == pytest.approx(70)
