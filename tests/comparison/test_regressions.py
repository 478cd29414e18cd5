"""Regression tests: changes of one row, changes of all rows, and error rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from toolkit.comparison.regressions import Finding, Pair, find_regressions

LIMIT = 0.97


@st.composite
def rows(draw: Callable[[st.SearchStrategy[object]], object]) -> list[Pair]:
    """One to six rows of two to five passes; some of them lack a pass."""
    log = st.floats(4, 9)
    found = []
    for _ in range(int(str(draw(st.integers(1, 6))))):
        sides = []
        for _ in range(2):
            values = draw(st.lists(st.one_of(log, log, log, st.none()), min_size=2, max_size=5))
            assert isinstance(values, list)
            sides.append([5.0, 6.0, *values])
        found.append(Pair(old=sides[0], new=sides[1], table=draw(st.sampled_from("ab"))))
    return found


def swapped(pairs: Sequence[Pair]) -> list[Pair]:
    return [Pair(old=each.new, new=each.old, table=each.table) for each in pairs]


@given(rows())
@settings(deadline=None)
def test_swapping_the_runs_mirrors_the_findings(pairs: list[Pair]) -> None:
    there, common = find_regressions(pairs, limit=LIMIT)
    back, mirrored = find_regressions(swapped(pairs), limit=LIMIT)
    assert (common is None) == (mirrored is None)
    if common is not None and mirrored is not None:
        assert common.value == pytest.approx(1 / mirrored.value)
    opposite = {"faster": "slower", "slower": "faster"}
    for one, other in zip(there, back, strict=True):
        assert (one.to_others is None) == (other.to_others is None)
        if one.to_others is not None and other.to_others is not None:
            assert one.to_others.value == pytest.approx(1 / other.to_others.value)
        # A regression is one claim, tested on one side; any other difference is tested on two.
        if "undecided" not in (one.call, other.call) and not (one.regression or other.regression):
            assert opposite.get(one.call, one.call) == other.call


@given(rows(), st.floats(-3, 3))
@settings(deadline=None)
def test_absolute_speed_of_a_row_does_not_matter(pairs: list[Pair], shift: float) -> None:
    first = pairs[0]
    faster = Pair(
        **{
            side: [None if log is None else log + shift for log in getattr(first, side)]
            for side in ("old", "new")
        },
        table=first.table,
    )
    one, _ = find_regressions(pairs, limit=LIMIT)
    other, _ = find_regressions([faster, *pairs[1:]], limit=LIMIT)
    for left, right in zip(one, other, strict=True):
        assert left.p_value == pytest.approx(right.p_value, abs=1e-6)


def test_p_value_is_welchs_against_the_median_row_corrected_for_all_rows() -> None:
    """The others have no noise, so the machine's speed is known exactly."""
    random = np.random.default_rng(1)
    machine = {side: random.normal(0, 0.02, 8) for side in ("old", "new")}
    own = {side: random.normal(0, 0.02, 8) for side in ("old", "new")}
    own["new"] -= 0.08
    pairs = [
        Pair(
            **{side: (7 + machine[side] + (own[side] if not row else 0)).tolist() for side in own},
            table=0,
        )
        for row in range(5)
    ]
    findings, common = find_regressions(pairs, limit=LIMIT)
    single = scipy_stats.ttest_ind(
        own["new"], own["old"] + math.log(LIMIT), equal_var=False, alternative="less"
    ).pvalue
    assert findings[0].p_value == pytest.approx(5 * single)
    assert [each.call for each in findings] == ["slower", *["too close to call"] * 4]
    assert common is not None
    shared = scipy_stats.ttest_ind(machine["new"], machine["old"], equal_var=False)
    bounds = shared.confidence_interval(0.95)
    assert (common.low, common.high) == pytest.approx((math.exp(bounds.low), math.exp(bounds.high)))


def test_machine_speed_comes_from_rows_of_the_same_table_if_enough() -> None:
    """Four rows of two threads that all lost a tenth, and four of one thread that did not."""
    steady = (7.0, 7.001, 6.999, 7.0)
    slow = tuple(log + math.log(0.93) for log in steady)
    pairs = [Pair(old=steady, new=slow, table=2)] * 4 + [Pair(old=steady, new=steady, table=1)] * 4
    pairs = [Pair(old=each.old, new=each.new, table=each.table) for each in pairs]
    findings, _ = find_regressions(pairs, limit=LIMIT)
    assert not any(each.regression for each in findings)
    assert [each.call for each in findings] == ["undecided"] * 4 + ["too close to call"] * 4


def test_scatter_between_runs_widens_the_error_of_all_rows() -> None:
    """Each row is 4 % off individually, far more than its passes explain."""
    steady = np.array([7.0, 7.001, 6.999, 7.0])
    shifts = np.log([0.94, 1.03, 0.97, 1.0, 1.05, 0.96, 1.02])
    pairs = [Pair(old=steady.tolist(), new=(steady + shift).tolist(), table=0) for shift in shifts]
    findings, _ = find_regressions(pairs, limit=LIMIT)
    assert not any(each.regression for each in findings)
    quiet = [Pair(old=each.old, new=each.old, table=0) for each in pairs[1:]]
    findings, _ = find_regressions([pairs[0], *quiet], limit=LIMIT)
    assert [each.regression for each in findings] == [True] + [False] * 6


# Simulations; benchmarks/compare_aa.py has longer ones


def simulated(
    random: np.random.Generator, *, loss: float = 0.0, own: float = 0.0, limit: float = LIMIT
) -> list[Finding]:
    """13 rows of 8 passes, three of them of 2 to 4, in two runs on a machine that is 3 % faster or
    slower in each. Passes differ by 2 %, rows by `own` between the runs. The first row loses
    `loss`."""
    counts = [8] * 10 + [2, 3, 4]
    sides = []
    for lost in (0.0, loss):
        machine = random.normal(0, 0.03) + random.normal(0, 0.02, 8)
        sides.append(
            [
                machine[:count]
                + random.normal(0, own)
                + random.normal(0, 0.02, count)
                + (math.log(1 - lost) if row == 0 else 0.0)
                for row, count in enumerate(counts)
            ]
        )
    pairs = [
        Pair(old=old.tolist(), new=new.tolist(), table=0) for old, new in zip(*sides, strict=True)
    ]
    return find_regressions(pairs, limit=limit)[0]


@pytest.mark.parametrize(("limit", "own"), [(0.97, 0.0), (0.97, 0.02), (1.0, 0.0)])
def test_unchanged_runs_have_a_regression_in_at_most_5_percent(limit: float, own: float) -> None:
    """Except for 0.1 % bad luck: at most 5 % is allowed, also without any limit."""
    random, trials = np.random.default_rng(2), 150
    found = sum(
        any(each.regression for each in simulated(random, own=own, limit=limit))
        for _ in range(trials)
    )
    assert found <= scipy_stats.binom.ppf(0.999, trials, 0.05)


def test_loss_of_10_percent_is_usually_found() -> None:
    random, trials = np.random.default_rng(3), 60
    found = [simulated(random, loss=0.1) for _ in range(trials)]
    assert sum(run[0].regression for run in found) > 0.6 * trials
    assert sum(any(each.regression for each in run[1:]) for run in found) <= 3
