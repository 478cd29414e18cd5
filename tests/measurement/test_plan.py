"""The plan: errors name their flag; rounds, passes and calls are computed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import SettingError
from toolkit.measurement.plan import PASSES, Plan
from toolkit.schema import Interval

plans = st.builds(
    Plan,
    min_time_s=st.floats(0.001, 100),
    min_rounds=st.integers(6, 500),
    max_time_s=st.just(1000.0),
    round_s=st.floats(0.001, 1),
    passes=st.integers(1, 10),
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_time_s": 0}, "--min-time 0: expected a number above 0"),
        ({"min_time_s": -1.0}, "--min-time -1.0: expected a number above 0"),
        ({"min_time_s": math.nan}, "--min-time nan: expected a number above 0"),
        ({"max_time_s": 0}, "--max-time 0: expected a number above 0"),
        ({"max_time_s": math.inf}, "--max-time inf: expected a number above 0"),
        ({"min_rounds": 0}, "--min-rounds 0: expected a number above 0"),
        ({"min_rounds": 5}, "--min-rounds 5: expected 6 or more"),
        ({"min_rounds": 10**30}, "at most 1,000,000,000"),
        (
            {"target_width": 0},
            "--target-width 0: expected a share above 0 and below 1, such as 1% or 0.01",
        ),
        ({"target_width": 1.5}, "--target-width 1.5: expected a share above 0 and below 1"),
        ({"target_width": 1}, "--target-width 1: expected a share above 0 and below 1"),
        ({"target_width": -0.01}, "--target-width -0.01"),
        ({"target_width": math.nan}, "--target-width nan"),
        ({"min_time_s": 20, "max_time_s": 10}, "--min-time 20 is more than --max-time 10; raise"),
    ],
    ids=str,
)
def test_bad_input_is_named_with_its_flag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as caught:
        Plan(**options)
    assert says in str(caught.value)


def test_boundary_values_of_the_plan_are_allowed() -> None:
    Plan(min_rounds=6, target_width=0.999, min_time_s=10, max_time_s=10)


@pytest.mark.parametrize(
    ("options", "passes", "rounds"),
    [
        ({}, PASSES, 4),  # 3 s of 0.1 s are 30 rounds, 32 are the least
        ({"min_time_s": 6.4}, PASSES, 8),
        ({"min_time_s": 20}, 10, 20),  # 200 rounds: more than 20 per pass need more passes
        ({"min_rounds": 6}, PASSES, 4),
        ({"min_rounds": 6, "min_time_s": 0.1}, PASSES, 1),
        ({"min_time_s": 0.9, "min_rounds": 9, "passes": 3}, 3, 3),
    ],
)
def test_passes_and_rounds_of_a_plan(options: dict[str, Any], passes: int, rounds: int) -> None:
    plan = Plan(**options)
    assert (plan.least_passes, plan.rounds_per_pass) == (passes, rounds)


@given(plans)
def test_plan_reaches_its_minimum_time_and_rounds(plan: Plan) -> None:
    rounds = plan.least_passes * plan.rounds_per_pass
    assert rounds >= plan.min_rounds
    assert rounds * plan.round_s >= plan.min_time_s * (1 - 1e-9)
    assert plan.least_passes >= plan.passes
    assert plan.rounds_per_pass <= 20
    assert rounds < max(plan.min_rounds, plan.min_time_s / plan.round_s + 1) + plan.least_passes


@given(plans, st.floats(1e-7, 100), st.integers(1, 20_000))
def test_round_is_long_enough_unless_it_needs_too_many_calls(
    plan: Plan, call_s: float, most: int
) -> None:
    calls = plan.calls_per_round(call_s, most=most)
    assert 1 <= calls <= most
    assert calls == most or calls * call_s >= plan.round_s
    assert calls == 1 or (calls - 1) * call_s < 1.1 * plan.round_s


def half_width(share: float) -> Interval:
    return Interval(value=100.0, low=100 * (1 - share), high=100 * (1 + share), passes=8)


@pytest.mark.parametrize("speeds", [[], [half_width(0.5)]])
def test_minimum_passes_are_enough_without_a_target_width(speeds: list[Interval]) -> None:
    plan = Plan(passes=3, min_rounds=6, min_time_s=0.1)
    assert [plan.enough(passes, speeds) for passes in (1, 2, 3, 4)] == [False, False, True, True]


def test_every_interval_must_reach_the_target_width() -> None:
    plan = Plan(target_width=0.01)
    narrow, wide = half_width(0.009), half_width(0.011)
    assert not plan.enough(PASSES - 1, [narrow])
    assert plan.enough(PASSES, [narrow, narrow])
    assert not plan.enough(PASSES, [narrow, wide])
    assert not plan.enough(1000, [wide])


def test_the_longer_side_of_an_interval_counts() -> None:
    plan = Plan(target_width=0.01)
    uneven = Interval(value=100.0, low=99.5, high=102.0, passes=8)
    assert not plan.enough(PASSES, [uneven])
