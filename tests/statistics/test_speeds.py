"""Speeds, ratios and percentiles derived from passes: properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolkit.schema import Interval, Pass, Round
from toolkit.statistics.speeds import (
    call_outliers,
    call_times,
    latencies,
    repeat_ratio,
    speed_ratio,
    speeds_of,
    throughput,
)

times_s = st.floats(1e-5, 10.0)


def a_round(*streams: Sequence[float]) -> Round:
    return Round(samples_s=tuple(tuple(calls) for calls in streams))


def a_pass(*rounds: Round, repeated: Round | None = None) -> Pass:
    return Pass(import_s=0.1, load_s=0.1, first_inference_s=0.1, rounds=rounds, repeated=repeated)


rounds = st.builds(a_round, st.lists(times_s, min_size=1, max_size=4))
some_passes = st.integers(2, 5).flatmap(
    lambda count: st.lists(
        st.lists(rounds, min_size=3, max_size=4).map(lambda found: a_pass(*found)),
        min_size=count,
        max_size=count,
    )
)


def scaled(passes: Sequence[Pass], factor: float) -> list[Pass]:
    """All calls `factor` times as long."""
    return [
        a_pass(
            *(
                a_round(*([call * factor for call in calls] for calls in each.samples_s))
                for each in one.rounds
            )
        )
        for one in passes
    ]


def close(found: Interval | None, wanted: tuple[float, float, float]) -> None:
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx(wanted, rel=1e-9)


def test_streams_add_up_to_the_throughput_of_a_round() -> None:
    """Two calls of 10 images in 0.5 s, four in 0.4 s."""
    both = a_round([0.2, 0.3], [0.1] * 4)
    assert both.images_per_s(10) == pytest.approx(20 / 0.5 + 40 / 0.4)
    assert speeds_of([a_pass(both), a_pass()], 10) == [[pytest.approx(140)], []]


@given(some_passes)
def test_ratio_of_a_candidate_to_itself_is_exactly_1(passes: list[Pass]) -> None:
    count = len(passes)
    assert speed_ratio(passes, passes) == Interval(value=1.0, low=1.0, high=1.0, passes=count)


@given(some_passes, some_passes)
def test_a_ratio_and_its_inverse_mirror_each_other(a: list[Pass], b: list[Pass]) -> None:
    there, back = speed_ratio(a, b), speed_ratio(b, a)
    assert there is not None
    assume(there.low > 1e-100 and there.high < 1e100)
    close(back, (1 / there.high, 1 / there.value, 1 / there.low))


@given(some_passes, st.floats(0.01, 100))
def test_speed_is_inverse_to_call_time(passes: list[Pass], factor: float) -> None:
    slow = scaled(passes, factor)
    close(speed_ratio(slow, passes), (1 / factor,) * 3)
    before, after = throughput(passes, 10), throughput(slow, 10)
    assert before is not None
    assume(before.low > 1e-100 and before.high < 1e100)
    close(after, (before.low / factor, before.value / factor, before.high / factor))


@given(some_passes, st.integers(1, 1000))
def test_throughput_grows_with_images_per_call(passes: list[Pass], batch_size: int) -> None:
    one, many = throughput(passes, 1), throughput(passes, batch_size)
    assert one is not None
    assume(one.low > 1e-100 and one.high < 1e100)
    close(many, (one.low * batch_size, one.value * batch_size, one.high * batch_size))


@pytest.mark.parametrize(
    "passes",
    [[], [a_pass()], [a_pass(*[a_round([0.1])] * 5)]],
    ids=["none", "no round", "one pass of five rounds"],
)
def test_too_few_rounds_give_no_interval(passes: list[Pass]) -> None:
    assert throughput(passes, 1) is None
    assert speed_ratio(passes, passes) is None
    assert repeat_ratio(passes) is None


def test_one_pass_of_six_rounds_gives_an_interval() -> None:
    found = throughput([a_pass(*[a_round([0.1])] * 6)], 1)
    assert found is not None
    assert found.value == pytest.approx(10)
    assert found.passes == 1


def test_pass_missing_on_one_side_is_left_out_of_the_ratio() -> None:
    fast, slow = a_pass(*[a_round([0.1])] * 3), a_pass(*[a_round([0.2])] * 3)
    found = speed_ratio([fast, fast, a_pass()], [slow, slow, fast])
    assert found is not None
    assert found.value == pytest.approx(2)
    assert found.passes == 2


@given(some_passes)
def test_a_repeated_input_as_fast_as_the_median_round_has_ratio_1(passes: list[Pass]) -> None:
    usual = [
        replace(one, repeated=min(one.rounds, key=lambda each: _distance(each, one)))
        for one in passes
    ]
    odd = [one for one in usual if len(one.rounds) % 2]
    assume(len(odd) >= 2)
    close(repeat_ratio(odd), (1.0, 1.0, 1.0))


def _distance(each: Round, one: Pass) -> float:
    middle = median(other.images_per_s(1) for other in one.rounds)
    return abs(math.log(each.images_per_s(1) / middle))


def test_repeat_ratio_needs_two_passes_with_both() -> None:
    usual = [a_round([0.2])] * 3
    both, without = a_pass(*usual, repeated=a_round([0.1])), a_pass(*usual)
    nothing = a_pass(repeated=a_round([0.1]))
    found = repeat_ratio([both, without, both, nothing])
    assert found is not None
    assert found.value == pytest.approx(2)
    assert found.passes == 2
    assert repeat_ratio([both, without, nothing]) is None


def calls(count: int) -> list[Pass]:
    """The given number of calls, half of them in each of two streams; 1 ms, 2 ms, ..."""
    found = [number / 1e3 for number in range(1, count + 1)]
    return [a_pass(a_round(found[::2], found[1::2]))]


@pytest.mark.parametrize(
    ("count", "carried"),
    [
        (4, []),
        (5, [0.5]),
        (28, [0.5]),
        (29, [0.5, 0.9]),
        (298, [0.5, 0.9]),
        (299, [0.5, 0.9, 0.99]),
    ],
)
def test_percentile_has_a_value_only_with_enough_calls(count: int, carried: list[float]) -> None:
    found = latencies(calls(count))
    assert [each.share for each in found] == [0.5, 0.9, 0.99]
    assert [each.share for each in found if each.value is not None] == carried
    assert {each.samples for each in found} == {count}
    if count % 2:
        assert found[0].value == pytest.approx((count + 1) / 2e3)


def test_no_calls_give_no_statistics() -> None:
    assert latencies([a_pass()]) == ()
    assert call_outliers([]) is None


def test_all_calls_of_streams_rounds_and_passes_count() -> None:
    passes = [a_pass(a_round([1.0, 2.0], [3.0]), a_round([4.0])), a_pass(a_round([5.0]))]
    assert call_times(passes) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_outliers_are_counted_and_kept() -> None:
    usual = [0.10 + number / 1e4 for number in range(40)]
    found = call_outliers([a_pass(a_round([*usual, 9.0, 0.0001]))])
    assert found is not None
    assert (found.samples, found.low, found.high) == (42, 1, 1)
    (half, *_) = latencies([a_pass(a_round([1.0] * 4 + [9.0]))])
    assert (half.value, half.samples) == (1.0, 5)
