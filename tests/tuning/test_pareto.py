"""The Pareto set and the recommendation: properties and examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.schema import Configuration, Constraints, Interval, Settings, Trial
from toolkit.tuning.pareto import keeps, pareto_set, preferred

CONFIGURATION = Configuration(
    runtime="onnxruntime",
    format="onnx",
    precision="fp32",
    artifact_path="a.onnx",
    artifact_sha256="a" * 64,
    batch_size=100,
    settings=Settings(threads=2),
)


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, passes=6)


def trial(
    name: str,
    speed: float = 100.0,
    latency_s: float = 0.01,
    size: int = 1000,
    accuracy: float = 0.9,
    flips: int = 0,
) -> Trial:
    return Trial(
        name=name,
        configuration=CONFIGURATION,
        stage=3,
        images_per_s=interval(speed, speed, speed),
        to_baseline=None,
        latency_s=latency_s,
        size_bytes=size,
        accuracy=accuracy,
        flips=flips,
        status="passed",
        reason=None,
        pareto=False,
    )


SMALL = st.integers(min_value=1, max_value=4)
TRIALS = st.lists(st.tuples(SMALL, SMALL, SMALL, SMALL), min_size=1, max_size=12).map(
    lambda points: [
        trial(str(at), float(p[0]), float(p[1]), p[2], p[3] / 4) for at, p in enumerate(points)
    ]
)


def better(one: Trial, other: Trial) -> bool:
    assert one.images_per_s is not None
    assert other.images_per_s is not None
    assert one.latency_s is not None
    assert other.latency_s is not None
    assert one.accuracy is not None
    assert other.accuracy is not None
    differences = (
        one.images_per_s.value - other.images_per_s.value,
        other.latency_s - one.latency_s,
        other.size_bytes - one.size_bytes,
        one.accuracy - other.accuracy,
    )
    return min(differences) >= 0 and max(differences) > 0


@given(TRIALS)
def test_pareto_set_is_undominated_and_dominates_the_rest(
    trials: list[Trial],
) -> None:
    found = pareto_set(trials)
    assert found
    for each in trials:
        beaten_by = [other for other in trials if better(other, each)]
        assert (each.name in found) == (not beaten_by)
        if beaten_by:
            assert any(other.name in found for other in beaten_by)


def test_equal_trials_both_stay_in_the_pareto_set() -> None:
    assert pareto_set([trial("a"), trial("b"), trial("c", speed=99)]) == {"a", "b"}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"status": "failed"}, False),
        ({"status": None}, False),
        ({"images_per_s": None}, False),
        ({"latency_s": 0.011}, False),
        ({"latency_s": 0.010}, True),
        ({"size_bytes": 1001}, False),
        ({"size_bytes": 1000}, True),
    ],
)
def test_constraints_filter_trials(changes: dict[str, object], kept: bool) -> None:
    wanted = Constraints(max_latency_s=0.010, max_size_bytes=1000)
    assert keeps(replace(trial("a"), **changes), wanted) is kept  # type: ignore[arg-type]


def test_single_trial_is_preferred() -> None:
    best, close = preferred([trial("a", flips=3)])
    assert (best.name, close) == ("a", [])


def test_tie_is_decided_by_flips_then_size_then_order() -> None:
    three, two, one = (
        trial("a", flips=3),
        trial("b", flips=1, size=20),
        trial("c", flips=1, size=10),
    )
    best, close = preferred([three, two, one])
    assert best.name == "c"
    assert [each.name for each in close] == ["a", "b"]
    assert preferred([trial("a"), trial("b")])[0].name == "a"


def test_no_trials_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trial"):
        preferred([])
