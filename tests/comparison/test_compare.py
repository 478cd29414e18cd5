"""Comparison of two runs: verdicts and their mirror, invalid comparisons, the command, a real
run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKPOINT, Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import unset

import toolkit
from toolkit.comparison.compare import compare
from toolkit.errors import SettingError, ToolkitError
from toolkit.measurement.plan import Plan
from toolkit.report.comparison import render_comparison
from toolkit.results import read_results, write_results
from toolkit.schema import (
    CheckpointRecord,
    ComparedRow,
    Comparison,
    DatasetRecord,
    Environment,
    Gpu,
    Limits,
    MachineWarning,
    Measurement,
    ParityReport,
    Pass,
    Results,
    Round,
    ScenarioReport,
    Settings,
    from_json,
    to_json,
)
from toolkit.statistics.speeds import throughput

JUDGED = ("faster", "slower", "too close to call", "undecided")  # mirrored in test_regressions.py
MIRRORED = {
    "failed now": "failed then",
    "failed then": "failed now",
    "only in old": "only in new",
    "only in new": "only in old",
}
STEADY = ((1000, 1010, 990), (1005, 995, 1001), (998, 1002, 1000), (1004, 1003, 996))

GPU = Gpu(
    name="H100",
    driver="1",
    clock_hz=None,
    max_clock_hz=None,
    temperature_c=None,
    utilization=None,
    persistence_mode=None,
)

Speeds = Sequence[Sequence[float]]


def passes_of(speeds: Speeds, batch_size: int) -> tuple[Pass, ...]:
    """One call per round, with the duration given by the speed."""
    rounds = [[Round(samples_s=((batch_size / speed,),)) for speed in each] for each in speeds]
    return tuple(
        Pass(import_s=0.1, load_s=0.1, first_inference_s=0.01, rounds=tuple(each))
        for each in rounds
    )


def measured(
    speeds: Speeds = STEADY, runtime: str = "onnxruntime", *, batch_size: int = 100, **changes: Any
) -> Measurement:
    """A measurement whose rounds ran at these images/s."""
    passes = passes_of(speeds, batch_size)
    row = Measurement(
        name=f"{runtime} fp32",
        runtime=runtime,
        format="onnx",
        precision="fp32",
        batch_size=batch_size,
        settings=Settings(threads=1),
        status="measured",
        reason=None,
        images_per_s=throughput(passes, batch_size),
        to_baseline=None,
        repeat_ratio=None,
        limit_share=None,
        latency_s=(),
        outliers=None,
        import_s=0.1,
        load_s=0.1,
        first_inference_s=0.01,
        peak_memory_bytes=100_000_000,
        artifact_size_bytes=4_800_000,
        artifact_sha256="a" * 64,
        session=None,
        passes=passes,
        stderr_tail="",
    )
    return replace(row, **changes)


def crashed(runtime: str = "onnxruntime") -> Measurement:
    return measured((), runtime, status="crashed", reason="SIGSEGV")


def results_of(*rows: Measurement, **changes: Any) -> Results:
    results = Results(
        schema_version=2,
        environment=Environment(
            time="2026-01-02T03:04:05+00:00",
            platform="Linux",
            machine="x86_64",
            cpu="a processor",
            isa=("avx2", "fma"),
            cores=2,
            memory_bytes=8_000_000_000,
            load_average=0.5,
            python="3.11.7",
            versions={"onnxruntime": "1.31.0", "numpy": "2.0.0"},
        ),
        dataset=DatasetRecord(name="mnist", split="test", images=10_000, sha256={"a": "b"}),
        checkpoint=CheckpointRecord(
            name="mnist-cnn", path="models/mnist-cnn", sha256="c" * 64, accuracy=None, training=None
        ),
        measurements=rows,
    )
    return replace(results, **changes)


def scaled(speeds: Speeds, factor: float) -> list[list[float]]:
    return [[value * factor for value in rounds] for rounds in speeds]


def only(comparison: Comparison) -> ComparedRow:
    assert len(comparison.rows) == 1
    return comparison.rows[0]


CONTROLS = tuple(measured(runtime=f"control {letter}") for letter in "abc")


def of_speeds(old: Speeds, new: Speeds, **options: Any) -> ComparedRow:
    """One row next to three unchanged rows."""
    runs = (results_of(measured(speeds), *CONTROLS) for speeds in (old, new))
    return compare(*runs, **options).rows[0]


def elsewhere(results: Results, **facts: Any) -> Results:
    return replace(results, environment=replace(results.environment, **facts))


# Properties

LEVELS = st.integers(100, 10_000).map(float)
ANY = st.lists(st.lists(LEVELS, max_size=4), min_size=1, max_size=5).filter(any)
CALM = st.lists(  # rounds within 1 % of each other, in 4 passes or more
    st.lists(st.floats(995, 1005), min_size=1, max_size=5), min_size=4, max_size=8
)


@st.composite
def runs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Results:
    """Some candidates, some of them failed, some with other bytes."""
    rows = []
    for runtime in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=4)):
        sha256 = draw(st.sampled_from(("d" * 64, "e" * 64)))
        size = draw(st.sampled_from((1, 10)))
        row = measured(draw(ANY), runtime, batch_size=size, artifact_sha256=sha256)
        failed = draw(st.booleans()) and draw(st.booleans())
        rows.append(replace(row, status="crashed", reason="SIGSEGV") if failed else row)
    return results_of(*rows)


def kinds(comparison: Comparison) -> list[str]:
    """The names without the number that distinguishes several of a kind: it follows the old run."""
    return [row.name.partition(" #")[0] for row in comparison.rows]


def outlines(comparison: Comparison) -> list[str]:
    return ["judged" if row.verdict in JUDGED else row.verdict for row in comparison.rows]


@given(runs(), runs())
@settings(deadline=None)
def test_swapping_the_runs_mirrors_the_verdicts(old: Results, new: Results) -> None:
    common = results_of(measured(runtime="common"))  # so that at least one row pairs
    old = replace(old, measurements=(*old.measurements, *common.measurements))
    new = replace(new, measurements=(*new.measurements, *common.measurements))
    there, back = compare(old, new), compare(new, old)
    mirrored = [MIRRORED.get(verdict, verdict) for verdict in outlines(there)]
    assert sorted(zip(kinds(there), mirrored, strict=True)) == (
        sorted(zip(kinds(back), outlines(back), strict=True))
    )
    assert len({row.name for row in there.rows}) == len(there.rows)
    assert len(old.measurements) == sum(row.old_status is not None for row in there.rows)
    assert len(new.measurements) == sum(row.new_status is not None for row in there.rows)


@given(runs())
@settings(deadline=None)
def test_run_compared_with_itself_has_no_regression(run: Results) -> None:
    found = compare(run, run)
    assert not found.regressions
    assert {row.verdict for row in found.rows} <= {
        "too close to call",
        "no interval",
        "failed in both",
    }
    assert all(row.same_artifact for row in found.rows)


@given(CALM, st.floats(0.5, 0.9))
@settings(deadline=None)
def test_uniform_slowdown_of_one_row_is_found(speeds: Speeds, factor: float) -> None:
    """The same change in the other direction is not a regression."""
    slower = of_speeds(speeds, scaled(speeds, factor), fail_below=-0.03)
    assert (slower.verdict, slower.regression) == ("slower", True)
    assert slower.ratio is not None
    assert slower.ratio.value == pytest.approx(factor)
    faster = of_speeds(scaled(speeds, factor), speeds)
    assert (faster.verdict, faster.regression) == ("faster", False)


@given(ANY, ANY, st.floats(-0.9, 0))
@settings(deadline=None)
def test_regression_is_significantly_beyond_the_limit(
    old: Speeds, new: Speeds, limit: float
) -> None:
    row = of_speeds(old, new, fail_below=limit)
    if row.regression:
        assert row.verdict == "slower"
        assert row.to_others is not None
        assert row.ratio is not None
        assert row.to_others.high < 1 + limit
        assert row.ratio.value < 1 + limit
    assert (row.ratio is None) == (row.verdict == "no interval") == (row.p_value is None)
    assert bool(row.reason) == (row.verdict in ("no interval", "undecided"))


# Verdicts


@pytest.mark.parametrize(
    ("factor", "limit", "verdict", "regression"),
    [
        (0.9, 0.0, "slower", True),
        (0.9, -0.03, "slower", True),
        (0.97, -0.03, "slower", False),
        (0.98, -0.03, "slower", False),
        (0.98, 0.0, "slower", True),
        (1.0, 0.0, "too close to call", False),
        (1.1, 0.0, "faster", False),
    ],
)
def test_loss_is_a_regression_only_beyond_the_limit(
    factor: float, limit: float, verdict: str, regression: bool
) -> None:
    row = of_speeds(STEADY, scaled(STEADY, factor), fail_below=limit)
    assert (row.verdict, row.regression) == (verdict, regression)


def test_insignificant_loss_is_not_a_regression() -> None:
    row = of_speeds([[1000], [1300], [900]], [[900], [1200], [800]])
    assert (row.verdict, row.regression) == ("too close to call", False)
    assert row.ratio is not None
    assert row.ratio.value < 0.95


# Changes that all rows share


def run_at(*factors: float, **changes: Any) -> Results:
    """A run with one row per factor."""
    rows = [
        measured(scaled(STEADY, factor), f"runtime {number}")
        for number, factor in enumerate(factors)
    ]
    return results_of(*rows, **changes)


SAME = (1.0,) * 5


def test_slowdown_of_all_rows_is_undecided() -> None:
    found = compare(run_at(*SAME), run_at(*[0.94] * 5))
    assert {row.verdict for row in found.rows} == {"undecided"}
    assert (found.regressions, found.exit_code) == ((), 4)
    assert found.rows[0].reason == (
        "slower relative to its past, but not relative to the other rows; all rows are 6.0% slower"
    )
    text = render_comparison(found)
    assert (
        "All rows are 6.0% slower (new/old 0.940 [0.938-0.942]). The cause is the machine" in text
    )
    assert text.splitlines()[-1] == "no regression beyond -3%; 5 of 5 undecided"


def test_loss_of_one_row_is_separated_from_a_common_slowdown() -> None:
    found = compare(run_at(*SAME), run_at(0.94 * 0.9, *[0.94] * 4))
    assert [row.verdict for row in found.rows] == ["slower", *["undecided"] * 4]
    assert found.exit_code == 1
    assert found.rows[0].to_others is not None
    assert found.rows[0].to_others.value == pytest.approx(0.9)
    assert found.common is not None
    assert found.common.value == pytest.approx(0.94)


def test_small_common_speedup_does_not_matter() -> None:
    found = compare(run_at(*SAME), run_at(*[1.05] * 5))
    assert {row.verdict for row in found.rows} == {"too close to call"}
    assert found.exit_code == 0
    assert "All rows are 5.0% faster" in render_comparison(found)


def test_loss_hidden_by_a_faster_machine_is_undecided() -> None:
    found = compare(run_at(*SAME), run_at(1.0, *[1.08] * 4))
    assert [row.verdict for row in found.rows] == ["undecided", *["too close to call"] * 4]
    assert "slower relative to the other rows, but not relative to its past" in str(
        found.rows[0].reason
    )
    assert found.exit_code == 4


@pytest.mark.parametrize("factor", [0.5, 0.89, 1.12])
def test_machine_in_another_state_leaves_all_rows_undecided(factor: float) -> None:
    found = compare(run_at(*SAME), run_at(factor * 0.8, *[factor] * 4))
    assert {row.verdict for row in found.rows} == {"undecided"}
    assert found.exit_code == 4
    assert "the machine was in another state" in str(found.rows[0].reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(
            ({"warnings": (MachineWarning(code=code, message="", action=""),)}, text)
            for code, text in (
                ("others", "the new run was measured next to other load"),
                ("steal", "the new run was measured next to other load"),
                ("heat", "the new run was measured next to other load"),
                ("stopped", "the new run stopped early"),
            )
        ),
        ({"interrupted": True}, "the new run stopped early"),
    ],
)
def test_unfit_runs_leave_all_rows_undecided(changes: dict[str, Any], reason: str) -> None:
    slow = run_at(0.5, *[0.6] * 4, **changes)
    found = compare(run_at(*SAME), slow)
    assert {(row.verdict, row.reason) for row in found.rows} == {("undecided", reason)}
    assert (found.unfit, found.exit_code) == ((reason,), 4)
    assert f"Nothing is decided: {reason}." in render_comparison(found)
    assert compare(slow, run_at(*SAME)).exit_code == 4
    assert compare(run_at(*SAME), slow, allow_undecided=True).exit_code == 0


@pytest.mark.parametrize("code", ["wide", "turbo", "siblings", "page_faults", "swap"])
def test_other_warnings_do_not_prevent_a_decision(code: str) -> None:
    warned = run_at(*SAME, warnings=(MachineWarning(code=code, message="", action=""),))
    assert compare(run_at(*SAME), warned).exit_code == 0


@pytest.mark.parametrize(
    ("flops_per_s", "exit_code"), [(84e9, 4), (89e9, 4), (92e9, 0), (109e9, 0), (112e9, 4)]
)
def test_changed_machine_limit_leaves_all_rows_undecided(
    flops_per_s: float, exit_code: int
) -> None:
    old, new = run_at(*SAME, limits=limits(100e9)), run_at(*SAME, limits=limits(flops_per_s))
    found = compare(old, new)
    assert found.exit_code == exit_code
    assert found.limit_share == pytest.approx(flops_per_s / 100e9)
    change = f"the limit of the machine {'fell' if flops_per_s < 1e11 else 'rose'} by "
    assert any(change in reason for reason in found.unfit) == (exit_code == 4)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"governor": "performance"}, "the frequency governor changed"),
        ({"turbo": True}, "turbo changed"),
        ({"cpu_quota": 1.5}, "the CPU quota changed"),
        ({"on_battery": True}, "battery power changed"),
    ],
)
def test_changed_machine_settings_leave_all_rows_undecided(
    facts: dict[str, Any], reason: str
) -> None:
    known = {"governor": "powersave", "turbo": False, "cpu_quota": 2.0, "on_battery": False}
    old = elsewhere(run_at(*SAME), **known)
    assert compare(old, elsewhere(old, **facts)).unfit == (reason,)
    assert compare(run_at(*SAME), elsewhere(old, **facts)).unfit == ()  # unknown before


def test_failure_is_a_regression_under_any_load() -> None:
    warning = MachineWarning(code="others", message="", action="")
    old = results_of(measured(), measured(runtime="b"))
    new = results_of(measured(), crashed("b"), warnings=(warning,))
    found = compare(old, new)
    assert [row.verdict for row in found.rows] == ["undecided", "failed now"]
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("factors", "verdicts", "exit_code"),
    [
        ((0.95,), ["undecided"], 4),
        ((0.85,), ["slower"], 1),
        ((0.98,), ["too close to call"], 0),
        ((1.15,), ["faster"], 0),
        ((0.95, 1.0), ["undecided", "too close to call"], 4),
        ((0.85, 1.0, 1.0), ["slower", "too close to call", "too close to call"], 1),
        ((0.85, 0.85, 0.85), ["undecided"] * 3, 4),
    ],
)
def test_few_rows_cannot_distinguish_machine_from_row(
    factors: tuple[float, ...], verdicts: list[str], exit_code: int
) -> None:
    found = compare(run_at(*[1.0] * len(factors)), run_at(*factors))
    assert [row.verdict for row in found.rows] == verdicts
    assert (found.exit_code, found.common) == (exit_code, None)
    assert "Fewer than four rows" in render_comparison(found)


def test_one_pass_gives_a_reason_instead_of_an_interval() -> None:
    row = of_speeds([[1000.0] * 8], STEADY)
    assert (row.verdict, row.regression) == ("no interval", False)
    assert row.reason == "the old run has 1 pass, expected at least 2 to compare runs"


@pytest.mark.parametrize("call_s", [0.0, float("nan"), -1.0, 1e-320])
def test_impossible_times_have_no_interval(call_s: float) -> None:
    row = measured()
    bad = replace(row.passes[1], rounds=(Round(samples_s=((call_s,),)),))
    damaged = replace(row, passes=(row.passes[0], bad, *row.passes[2:]))
    found = only(compare(results_of(row), results_of(damaged)))
    assert found.verdict == "no interval"
    assert found.reason


def test_new_failure_of_a_measured_candidate_is_a_regression() -> None:
    old = results_of(measured(), crashed("b"), crashed("c"), measured(runtime="d"))
    new = results_of(crashed(), measured(runtime="b"), crashed("c"), measured(runtime="d"))
    found = compare(old, new)
    assert [row.verdict for row in found.rows] == [
        *("failed now", "failed then", "failed in both", "too close to call")
    ]
    assert [row.regression for row in found.rows] == [True, False, False, False]
    assert found.rows[0].reason == "SIGSEGV"
    assert found.exit_code == 1


def test_candidate_in_only_one_run_is_reported_but_not_a_regression() -> None:
    old = results_of(measured(), measured(runtime="gone"))
    new = results_of(measured(runtime="fresh"), measured())
    found = compare(old, new)
    assert [(row.name, row.verdict) for row in found.rows] == [
        ("onnxruntime fp32", "too close to call"),
        ("gone fp32", "only in old"),
        ("fresh fp32", "only in new"),
    ]
    assert found.exit_code == 0


def test_no_op_runtime_is_not_compared() -> None:
    slow = measured(scaled(STEADY, 0.1), "no-op", format="checkpoint")
    fast = measured(runtime="no-op", format="checkpoint")
    assert only(compare(results_of(measured(), fast), results_of(measured(), slow))).runtime == (
        "onnxruntime"
    )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"runtime": "openvino"}, "openvino fp32"),
        ({"format": "pt2"}, "onnxruntime fp32, pt2"),
        ({"precision": "int8"}, "onnxruntime int8"),
        ({"batch_size": 1}, "onnxruntime fp32, batch 1"),
        ({"settings": Settings(threads=2)}, "onnxruntime fp32, 2 threads"),
        ({"settings": Settings(threads=1, streams=2)}, "onnxruntime fp32, 2 streams"),
        ({"settings": Settings(threads=1, device="cuda")}, "onnxruntime fp32, cuda"),
    ],
)
def test_only_equal_candidates_are_paired(changes: dict[str, Any], name: str) -> None:
    other = replace(measured(), **changes)
    found = compare(results_of(measured()), results_of(other, measured()))
    assert [row.verdict for row in found.rows] == ["too close to call", "only in new"]
    assert found.rows[1].name == name != found.rows[0].name
    with pytest.raises(
        ToolkitError, match=r"in common: old has onnxruntime fp32 onnx \(batch 100, 1 thread"
    ):
        compare(results_of(measured()), results_of(other))


def test_changed_artifact_bytes_are_paired_and_reported() -> None:
    """Equal bytes are matched first, in any order; the rest keeps its order."""
    rows = [measured(artifact_sha256=letter * 64) for letter in "abc"]
    found = compare(results_of(rows[0], rows[1]), results_of(rows[2], rows[0]))
    assert [row.same_artifact for row in found.rows] == [True, False]
    assert [row.name for row in found.rows] == ["onnxruntime fp32", "onnxruntime fp32 #2"]
    assert "too close to call; other artifact (sha256)" in render_comparison(found)


# Pairing of candidates


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"cpu": "another"}, "cpu: a processor → another"),
        ({"machine": "aarch64"}, "machine: x86_64 → aarch64"),
        ({"cores": 4}, "cores: 2 → 4"),
        ({"isa": ("avx2",)}, "isa: avx2 fma → avx2"),
        ({"memory_bytes": 16_000_000_000}, "memory: 8.0 GB → 16.0 GB"),
        ({"memory_bytes": 7_500_000_000}, "memory: 8.0 GB → 7.5 GB"),
        ({"gpus": (GPU,)}, "GPU: none → H100"),
    ],
)
def test_runs_from_two_machines_are_refused_without_anyway(
    facts: dict[str, Any], named: str
) -> None:
    old = results_of(measured())
    new = elsewhere(old, **facts)
    with pytest.raises(ToolkitError, match="--anyway") as refused:
        compare(old, new)
    assert f"({named})" in str(refused.value)
    found = compare(old, new, anyway=True)
    assert found.machine == (named,)
    assert (
        f"Warning: the runs come from two machines and were compared anyway: {named}."
        in render_comparison(found)
    )


def test_small_memory_difference_or_other_order_is_the_same_machine() -> None:
    old = results_of(measured())
    new = elsewhere(old, memory_bytes=7_700_000_000, isa=("fma", "avx2"), load_average=9.0)
    assert compare(old, new).machine == ()


def test_other_changes_are_reported() -> None:
    old = results_of(measured(), limits=limits(100e9))
    new = replace(
        elsewhere(
            old,
            python="3.12.0",
            governor="powersave",
            versions={"onnxruntime": "1.32.0", "openvino": "2025.0"},
        ),
        dataset=DatasetRecord(name="mnist", split="test", images=500, sha256={"a": "c"}),
        checkpoint=replace(old.checkpoint, sha256="d" * 64),
        limits=limits(80e9),
        warnings=(MachineWarning(code="busy", message="", action=""),),
        interrupted=True,
    )
    assert compare(old, new).changes == (
        "python 3.11.7 → 3.12.0",
        "governor unknown → powersave",
        "images 10000 → 500",
        "weights cccccccccccc → dddddddddddd",
        "the bytes of the data's files changed",
        "numpy 2.0.0 → absent",
        "onnxruntime 1.31.0 → 1.32.0",
        "openvino absent → 2025.0",
        "the machine's float32 limit 100 → 80 GFLOP/s",
        "the new run was measured with warnings (busy)",
        "the new run was interrupted",
    )
    assert compare(old, old).changes == ()


def limits(flops_per_s: float) -> Limits:
    return Limits(
        threads=1, float32_flops_per_s=flops_per_s, int8_ops_per_s=None, copy_bytes_per_s=1e9
    )


@pytest.mark.parametrize("limit", [0.03, 1e-9, -1.0, -3.0, float("nan"), float("inf")])
def test_a_limit_out_of_range_is_refused(limit: float) -> None:
    run = results_of(measured())
    with pytest.raises(SettingError, match=r"--fail-below .*: expected a loss, .* as -3% or -0.03"):
        compare(run, run, fail_below=limit)


@pytest.mark.parametrize("rows", [(), (measured(runtime="no-op"),)])
def test_results_without_measurements_are_refused(rows: tuple[Measurement, ...]) -> None:
    full, empty = results_of(measured()), results_of(*rows)
    with pytest.raises(ToolkitError, match="the new results contain no measurements"):
        compare(full, empty)
    with pytest.raises(ToolkitError, match=r"the old results .* toolkit bench --out DIR"):
        compare(empty, full)


def test_results_without_measurements_say_what_they_contain() -> None:
    parity = ParityReport(**unset(*(field.name for field in fields(ParityReport))))
    scenario = ScenarioReport(**unset(*(field.name for field in fields(ScenarioReport))))
    full = results_of(measured())
    with pytest.raises(
        ToolkitError, match="old results contain no measurements, parity reports only"
    ):
        compare(results_of(parity=(parity,)), full)
    with pytest.raises(ToolkitError, match="no measurements, MLPerf scenarios only"):
        compare(full, results_of(scenarios=(scenario,)))


def test_comparison_without_judged_rows_does_not_pass() -> None:
    run = results_of(measured([[1000.0] * 8]))
    found = compare(run, run)
    assert found.exit_code == 2
    assert render_comparison(found).splitlines()[-1].startswith("nothing could be judged")


# Text output


def test_report_has_a_table_notes_and_a_closing_line() -> None:
    old = results_of(measured(), measured(runtime="b"), measured(runtime="c"))
    new = results_of(measured(scaled(STEADY, 0.88)), measured(runtime="b"), crashed("c"))
    lines = render_comparison(compare(old, new)).splitlines()
    assert lines[0].split("  ")[0] == "candidate"
    assert "1,001 [999-1,003]" in lines[2]
    assert "0.880 [0.878-0.882]   slower" in lines[2]
    assert "1.000 [0.998-1.002]   too close to call" in lines[3]
    assert lines[4].endswith("   failed now: crashed: SIGSEGV")
    assert any(line.startswith("Fewer than four rows were measured") for line in lines)
    assert lines[-1] == (
        "2 regressions: onnxruntime fp32 (-12.0%), c fp32 (failed now: crashed: SIGSEGV)"
    )


def test_closing_line_without_a_regression() -> None:
    run = results_of(measured())
    assert render_comparison(compare(run, run)).splitlines()[-1] == "no regression beyond -3%"
    assert render_comparison(compare(run, run, fail_below=0)).splitlines()[-1] == "no regression"
    more = results_of(measured(), measured(runtime="b"))
    text = render_comparison(compare(run, more, fail_below=-0.03))
    assert text.splitlines()[-1] == "no regression beyond -3%; 1 of 2 could not be judged"


# The command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """OLD, and a NEW in which one row of four is 2 % slower."""
    paths = tmp_path / "old.json", tmp_path / "new.json"
    write_results(paths[0], results_of(measured(), *CONTROLS))
    write_results(paths[1], results_of(measured(scaled(STEADY, 0.98)), *CONTROLS))
    return paths


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0),
        (["--fail-below", "-3%"], 0),
        (["--fail-below", "-0.03"], 0),
        (["--fail-below=-3%"], 0),
        (["--fail-below", "-1%"], 1),
        (["--fail-below", "0"], 1),
        (["--fail-below", "3%"], 2),
        (["--fail-below", "-three"], 2),
    ],
)
def test_the_exit_code_follows_the_limit(
    cli: Cli, files: tuple[Path, Path], options: list[str], code: int
) -> None:
    assert cli("compare", *files, *options).exit_code == code


def test_improvement_exits_with_0(cli: Cli, files: tuple[Path, Path]) -> None:
    done = cli("compare", *reversed(files))
    assert done.exit_code == 0
    assert "faster" in done.stdout
    assert done.stdout.splitlines()[-1] == "no regression beyond -3%"


def test_json_is_the_record(cli: Cli, files: tuple[Path, Path]) -> None:
    done = cli("compare", *files, "--json", "--fail-below", "-1%")
    found = compare(*map(read_results, files), fail_below=-0.01)
    record = json.loads(done.stdout)
    assert record.pop("exit_code") == 1
    assert from_json(Comparison, record) == found
    assert done.exit_code == found.exit_code == 1


def test_undecided_rows_exit_with_4_unless_they_are_allowed(
    cli: Cli, files: tuple[Path, Path]
) -> None:
    write_results(files[1], replace(read_results(files[1]), interrupted=True))
    assert cli("compare", *files).exit_code == 4
    assert cli("compare", *files, "--allow-undecided").exit_code == 0


def test_folder_is_accepted_for_its_results_file(cli: Cli, files: tuple[Path, Path]) -> None:
    folder = files[0].parent / "folder"
    write_results(folder / "results.json", read_results(files[0]))
    assert cli("compare", folder, files[0]).exit_code == 0


def test_runs_from_two_machines_give_one_error_line(cli: Cli, files: tuple[Path, Path]) -> None:
    write_results(files[1], elsewhere(read_results(files[1]), cores=8))
    done = cli("compare", *files)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "cores: 2 → 8" in done.stderr
    assert cli("compare", *files, "--anyway", "--fail-below", "-3%").exit_code == 0


def of_version(version: int) -> bytes:
    return json.dumps({**to_json(results_of(measured())), "schema_version": version}).encode()


LONG = json.dumps(to_json(results_of(measured([[1000.0] * 50] * 4)))).encode()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (LONG.replace(b"[[0.1]]", b'[["x"]]'), "rounds[0].samples_s[0][0]`; create it again"),
        (
            of_version(1),
            "schema_version 1, expected 2; create it again with: toolkit bench --out DIR",
        ),
        (of_version(2)[:-100], "not a results file of this version: "),
        (b"\xff\xfe{}", "not a results file of this version: "),
        (b"[]", "not a results file of this version: "),
        (b'{"schema_version": 2}', "missing required field `environment`"),
        (
            of_version(2).replace(b'"import_s": 0.1', b'"import_s": "x"'),
            "Expected `float | null`, got `str`",
        ),
        (None, "cannot read "),
    ],
)
def test_invalid_results_file_gives_one_error_line(
    cli: Cli, files: tuple[Path, Path], content: bytes | None, named: str
) -> None:
    files[1].unlink() if content is None else files[1].write_bytes(content)
    done = cli("compare", *files)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert str(files[1]) in done.stderr
    assert named in done.stderr
    assert len(done.stderr) < 600


# Real runs


@pytest.mark.slow
def test_two_real_runs_are_compared(
    exports: Path, small_data: Path, tmp_path: Path, cli: Cli
) -> None:
    """It asserts no speed, only that the exit code matches the verdict."""
    for name in ("old", "new"):
        toolkit.bench(
            [exports],
            runtimes=["onnxruntime"],
            checkpoint=CHECKPOINT,
            data=small_data,
            session=toolkit.SessionOptions(threads=1),
            plan=Plan(min_time_s=0.3, min_rounds=6, passes=2),
            out=tmp_path / name,
        )
    found = toolkit.compare(*(toolkit.read_results(tmp_path / name) for name in ("old", "new")))
    row = only(found)
    assert row.ratio is not None
    assert row.ratio.low <= row.ratio.value <= row.ratio.high
    assert row.ratio.passes == 2
    assert (row.same_artifact, row.old_status, row.new_status) == (True, "measured", "measured")
    done = cli("compare", tmp_path / "old", tmp_path / "new" / "results.json")
    wanted = {"slower": 1, "undecided": 4}.get(row.verdict, 0)
    assert done.exit_code == found.exit_code == wanted
    assert row.verdict in done.stdout
    itself = cli("compare", tmp_path / "old", tmp_path / "old")
    assert itself.exit_code in (0, 4)  # undecided if something else ran at the same time
