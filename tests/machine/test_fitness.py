"""Each fact that makes a machine unfit gives its warning, with an existing flag or command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from samples import ALONE, MEASURED, QUIET, UNKNOWN, WORST
from scipy import stats as scipy_stats

from toolkit.cli import commands
from toolkit.machine.fitness import instruction_sets, judge, judge_artifacts
from toolkit.machine.speed_warnings import judge_speeds
from toolkit.schema import (
    Artifact,
    GpuState,
    Interference,
    Interval,
    Isa,
    MachineWarning,
    Measurement,
    Pass,
    Round,
    Settings,
    WarmUp,
)
from toolkit.statistics.speeds import repeat_ratio


def judged(
    *, threads: int = 4, others: float = 0.0, steal: float | None = 0.0, **changes: Any
) -> list[tuple[str, str]]:
    taken = Interference(wall_s=1.0, others_cores=others, steal_share=steal)
    found = judge(replace(QUIET, **changes), threads=threads, interference=taken)
    return [(warning.code, warning.action) for warning in found]


def test_a_quiet_machine_gets_no_warning() -> None:
    assert judge(QUIET, threads=4, interference=ALONE) == ()


def test_unknown_facts_give_no_warning() -> None:
    assert judge(UNKNOWN, threads=8) == ()
    assert judged(steal=None) == []


@pytest.mark.parametrize(
    ("changes", "code", "action"),
    [
        ({"others": 1.0}, "others", "close them"),
        ({"steal": 0.02}, "steal", "`toolkit bench --min-time 20`"),
        ({"threads": 9}, "threads", "`--threads 8`"),
        ({"threads": 8}, "siblings", "`--threads 4`"),
        ({"threads": 5}, "siblings", "`--threads 4`"),
        ({"cpu_quota": 2.5}, "quota", "`--threads 2`"),
        ({"cpu_quota": 0.5}, "quota", "`--threads 1`"),
        ({"cpu_quota": 2.5}, "quota", "`docker run --cpus 3`"),
        ({"governor": "powersave"}, "governor", "`sudo cpupower frequency-set -g performance`"),
        ({"governor": "performance, schedutil"}, "governor", "cpupower"),
        ({"on_battery": True}, "battery", "plug it in"),
        ({"temperature_c": 91.0}, "heat", "cool"),
        ({"temperature_c": 91.0, "critical_temperature_c": None}, "heat", "cool"),
        ({"temperature_c": 76.0, "critical_temperature_c": 85.0}, "heat", "cool"),
        ({"available_memory_bytes": 1_500_000_000}, "memory", "close programs"),
        ({"swap_used_bytes": 300_000_000}, "swap", "swapoff"),
        ({"turbo": True}, "turbo", "no_turbo"),
    ],
)
def test_each_bad_fact_gives_exactly_its_warning(
    changes: dict[str, Any], code: str, action: str
) -> None:
    ((found, hint),) = judged(**changes)
    assert found == code
    assert action in hint


@pytest.mark.parametrize(
    "changes",
    [
        {"others": 0.19},
        {"others": 1.2, "cores": 64, "physical_cores": 64},
        {"steal": 0.01},
        {"threads": 1},
        {"threads": 8, "physical_cores": 8},
        {"threads": 8, "physical_cores": None},
        {"cpu_quota": 4.0},
        {"temperature_c": 89.0},
        {"available_memory_bytes": 1_600_000_000},
        {"swap_used_bytes": 200_000_000},
    ],
)
def test_values_below_the_limits_give_no_warning(changes: dict[str, Any]) -> None:
    assert judged(**changes) == []


def everything() -> tuple[MachineWarning, ...]:
    taken = Interference(wall_s=1.0, others_cores=1.0, steal_share=0.5)
    return (
        *judge(WORST, threads=4, interference=taken),
        *judge(replace(WORST, physical_cores=2), threads=3),
    )


def test_worst_machine_gets_every_warning_most_serious_first() -> None:
    codes = list(dict.fromkeys(warning.code for warning in everything()))
    assert codes[:2] == ["others", "steal"]
    assert set(codes) == {
        *("others", "steal", "threads", "siblings", "quota", "governor"),
        *("battery", "heat", "memory", "swap", "turbo"),
    }


def warmed(*steady: bool) -> tuple[Pass, ...]:
    return tuple(
        Pass(
            import_s=0.1,
            load_s=0.1,
            first_inference_s=0.1,
            warm_up=WarmUp(calls=4, wall_s=0.1, steady=each),
        )
        for each in steady
    )


def repeated(*ratios: float) -> tuple[Pass, ...]:
    """Passes whose repeated round was `ratio` times as fast as the others."""
    return tuple(
        replace(
            one,
            rounds=(Round(samples_s=((0.1,),)),),
            repeated=Round(samples_s=((0.1 / ratio,),)),
        )
        for one, ratio in zip(warmed(*[True] * len(ratios)), ratios, strict=True)
    )


def row(**changes: Any) -> Measurement:
    calm = replace(
        MEASURED,
        images_per_s=Interval(value=100.0, low=99.0, high=101.0, passes=4),
        repeat_ratio=Interval(value=1.0, low=0.98, high=1.02, passes=4),
        passes=warmed(True, True, True),
    )
    return replace(calm, **changes)


WIDE = {"images_per_s": Interval(value=100.0, low=94.0, high=103.0, passes=4)}
CACHED = {"passes": repeated(1.9, 2.0, 2.1, 2.0)}
UNSTEADY = {"passes": warmed(True, False, False)}
PAGED = {"page_faults": 9123.4}
SUSPECT = [
    *(row(name="w", **WIDE), row(name="u", **UNSTEADY)),
    *(row(name="p", **PAGED), row(name="c", **CACHED)),
]


def test_each_suspicious_speed_has_its_warning_and_names_the_candidate() -> None:
    wide, unsteady, paged, cached = judge_speeds(SUSPECT)
    assert (wide.code, unsteady.code, cached.code) == ("wide", "unsteady", "cached")
    assert (paged.code, paged.message[-7:]) == ("page_faults", "p 9,123")
    assert wide.message == "intervals are wide: w ± 6%"
    assert unsteady.message.endswith(": u")
    assert "c 2.00 times" in cached.message


def test_warning_names_the_three_worst_rows() -> None:
    rows = [
        row(
            name=f"w{each}",
            images_per_s=Interval(value=100.0, low=90.0 - each, high=110.0 + each, passes=4),
        )
        for each in range(6)
    ]
    (wide,) = judge_speeds(rows)
    assert wide.message == "intervals are wide: w5 ± 15%, w4 ± 14%, w3 ± 13% and 3 more"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images_per_s": Interval(value=100.0, low=95.5, high=104.5, passes=4)},
        {"images_per_s": None},
        {"passes": repeated(1.2, 1.19, 1.21, 1.2)},
        {"passes": repeated(1.28, 1.1, 1.6, 1.2, 1.3)},
        {"passes": repeated(9.0)},
        {"passes": warmed(True, False)},
        {"passes": ()},
        {"page_faults": 255.0},
        {**PAGED, "settings": Settings(threads=2, keep_memory=True)},
        {**WIDE, **CACHED, "runtime": "no-op"},
        {**WIDE, **CACHED, "status": "crashed"},
    ],
)
def test_plausible_speeds_give_no_warning(changes: dict[str, Any]) -> None:
    assert judge_speeds([row(**changes)]) == ()


def warned_of_cache(rows: Sequence[Measurement]) -> bool:
    rows = [replace(each, name=f"row {number}") for number, each in enumerate(rows)]
    return any(warning.code == "cached" for warning in judge_speeds(rows))


def test_cache_warning_is_a_t_test_corrected_for_the_number_of_rows() -> None:
    """The t test of the times' ratio against 1/1.25, as in scipy; the row is one of four."""
    quiet = [row(passes=repeated(1.0, 1.01, 0.99))] * 3
    random = np.random.default_rng(4)
    seen = set()
    for _ in range(50):
        ratios = 1.25 * np.exp(random.normal(0.25, 0.2, 8))
        p_value = scipy_stats.ttest_1samp(1 / ratios, 1 / 1.25, alternative="less").pvalue
        warned = warned_of_cache([row(passes=repeated(*ratios.tolist())), *quiet])
        assert warned == (4 * p_value <= 0.05)
        seen.add(warned)
    assert seen == {True, False}


def test_thirteen_rows_under_load_rarely_give_a_cache_warning() -> None:
    """Single rounds that vary by 30 %: at most 5 % of runs, except with a probability of 1 in 1000.
    The previous rule, a ratio of 1.1 whose own interval excludes 1, fires in far more of them."""
    random, trials = np.random.default_rng(5), 100
    alarms = before = 0
    for _ in range(trials):
        rows = [row(passes=repeated(*np.exp(random.normal(0, 0.3, 8)).tolist())) for _ in range(13)]
        alarms += warned_of_cache(rows)
        ratios = [repeat_ratio(each.passes) for each in rows]
        before += any(each is not None and each.value > 1.1 and each.low > 1 for each in ratios)
    assert alarms <= scipy_stats.binom.ppf(0.999, trials, 0.05)
    assert before > alarms


def test_cache_is_detected_despite_noisy_microseconds() -> None:
    cached = row(passes=repeated(2000.0, 8.0, 300.0))
    assert warned_of_cache([cached, *[row(passes=repeated(1.0, 1.1, 0.9))] * 12])


def on_gpu(*rounds: tuple[GpuState, ...]) -> Measurement:
    """Return a row with these rounds; each has the GPU states before, during and after it."""
    (one, *_) = MEASURED.passes
    kept = tuple(replace(one.rounds[0], gpu=states) for states in rounds)
    return replace(MEASURED, name="a", passes=(replace(one, rounds=kept, repeated=None),))


def at(clock_ghz: float | None, *slowed_by: str) -> GpuState:
    clock_hz = None if clock_ghz is None else clock_ghz * 1e9
    return GpuState(clock_hz=clock_hz, slowed_by=slowed_by)


def gpu_warnings(row: Measurement) -> dict[str, MachineWarning]:
    return {each.code: each for each in judge_speeds([row]) if each.code.startswith("gpu")}


def test_low_gpu_clock_at_the_start_of_rounds_gives_a_warning() -> None:
    low, high = (at(0.345), at(1.98), at(1.98)), (at(1.98), at(1.97), at(1.98))
    (warning,) = gpu_warnings(on_gpu(low, high, high, low)).values()
    assert warning.code == "gpu_clock"
    assert "a 2 of 4 rounds, from 0.34 of 1.98 GHz" in warning.message
    assert gpu_warnings(on_gpu(*[high] * 10, low)) == {}  # one in eleven is allowed
    assert gpu_warnings(on_gpu((at(None), at(None), at(None)))) == {}
    assert gpu_warnings(on_gpu(())) == {}


def test_gpu_that_slows_down_during_rounds_gives_a_warning() -> None:
    cool = (at(1.98), at(1.98), at(1.98))
    hot = (at(1.98), at(1.7, "power limit"), at(1.5, "heat", "power limit"))
    (warning,) = gpu_warnings(on_gpu(hot, cool)).values()
    assert warning.code == "gpu_slowed"
    assert "a 1 of 2 rounds (heat, power limit)" in warning.message
    before = (at(1.9, "heat"), at(1.98), at(1.98))
    assert gpu_warnings(on_gpu(before)) == {}  # a state before the round does not count
    unknown = GpuState(clock_hz=1.98e9)
    assert gpu_warnings(on_gpu((unknown, unknown, unknown))) == {}


def test_every_flag_in_a_warning_is_an_option() -> None:
    """A flag without a command must be an option of each command that prints warnings."""
    options = {
        name: {flag for option in command.params for flag in option.opts}
        for name, command in commands.commands.items()
    }
    actions = " ".join(each.action for each in (*everything(), *judge_speeds(SUSPECT)))
    named = re.findall(r"`(?:toolkit ([a-z]+) )?(--[a-z-]+)", actions)
    assert {flag for _, flag in named} >= {"--min-time", "--target-width", "--keep-memory"}
    for command, flag in named:
        for name in [command] if command else ["bench", "doctor", "run", "verify", "tune"]:
            assert flag in options[name], (name, flag)


@pytest.mark.parametrize(
    ("machine", "isa", "found"),
    [
        ("x86_64", ("avx2", "avx512f"), {"avx2"}),
        ("x86_64", ("avx2", "avx_vnni"), {"vnni"}),
        ("x86_64", ("avx2", "avx512_vnni"), {"vnni"}),
        ("aarch64", ("asimd",), {"arm"}),
        ("riscv64", (), set()),
    ],
)
def test_instruction_sets_for_int8_are_detected(
    machine: str, isa: tuple[str, ...], found: set[str]
) -> None:
    assert instruction_sets(replace(QUIET, machine=machine, isa=isa)) == found


def made_for(*isas: Isa) -> Artifact:
    return Artifact(
        format="onnx",
        precision="int8",
        path="m.int8.onnx",
        size_bytes=1,
        sha256="a" * 64,
        checkpoint_sha256="b" * 64,
        spec_sha256="c" * 64,
        input_shape=(1, 28, 28),
        classes=10,
        isas=isas or None,
    )


def test_int8_for_another_processor_gives_a_warning() -> None:
    (warning,) = judge_artifacts(QUIET, [made_for("vnni", "arm"), made_for()])
    assert warning.code == "isa"
    assert warning.message.endswith("this one has avx2: m.int8.onnx is exact on vnni, arm")


@pytest.mark.parametrize("isas", [(), ("avx2",), ("arm", "avx2")])
def test_int8_that_is_exact_here_gives_no_warning(isas: tuple[Isa, ...]) -> None:
    assert judge_artifacts(QUIET, [made_for(*isas)]) == ()
