"""Bounds of shares, compared with scipy; the paired bound is compared with a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from toolkit.statistics.shares import accuracy_drop, needed_images, percent, points, rate


@settings(deadline=None)
@given(st.integers(1, 5000), st.data(), st.sampled_from([0.9, 0.975, 0.999]))
def test_rate_bounds_match_scipy(images: int, data: st.DataObject, confidence: float) -> None:
    count = data.draw(st.integers(0, images))
    two_sided = 2 * confidence - 1
    wanted = binomtest(count, images).proportion_ci(two_sided, method="exact")
    found = rate(count, images, confidence)
    assert found.value == count / images
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_bound_for_no_flip_in_ten_thousand() -> None:
    """The bound is 1 - 0.025 ** (1 / 10,000)."""
    assert rate(0, 10_000, 0.975).high == pytest.approx(3.688e-4, abs=1e-7)
    assert rate(0, 3, 0.975).high == pytest.approx(0.7076, abs=1e-4)


@pytest.mark.parametrize(("count", "images"), [(0, 0), (2, 1), (-1, 5)])
def test_invalid_share_is_an_error(count: int, images: int) -> None:
    with pytest.raises(ValueError, match="is not a valid share"):
        rate(count, images, 0.975)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(600, 20_000))
def test_accuracy_drop_lies_between_its_bounds_and_mirrors(
    lost: int, won: int, images: int
) -> None:
    found = accuracy_drop(lost, won, images, 0.975)
    other = accuracy_drop(won, lost, images, 0.975)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx((lost - won) / images)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40))
def test_accuracy_drop_excludes_zero_only_if_mcnemars_exact_test_does(lost: int, won: int) -> None:
    """The exact test of McNemar is the binomial test of the images that differ."""
    found = accuracy_drop(lost, won, 10_000, 0.975)
    if lost + won == 0:
        assert found.low < 0 < found.high
        return
    p_value = binomtest(lost, lost + won).pvalue
    if found.low > 0 or found.high < 0:
        assert p_value < 0.05
    if (
        p_value < 0.02
    ):  # the bounds are slightly wider, because they also cover the share that differs
        assert found.low > 0 or found.high < 0


@pytest.mark.parametrize(
    ("lost", "won"), [(0.001, 0.001), (0.01, 0.01), (0.0, 0.0005), (0.003, 0.001), (0.02, 0.0)]
)
def test_accuracy_drop_bounds_have_their_stated_coverage(lost: float, won: float) -> None:
    random = np.random.default_rng(0)
    images = 2000
    draws = random.multinomial(images, [lost, won, 1 - lost - won], size=400)
    bounds = [accuracy_drop(int(b), int(c), images, 0.975) for b, c, _ in draws]
    missed = sum(not each.low <= lost - won <= each.high for each in bounds)
    assert missed <= 0.05 * len(bounds) + 3 * np.sqrt(0.05 * len(bounds))


def test_needed_number_of_images() -> None:
    def bounds(factor: float) -> object:
        return rate(0, round(3 * factor), 0.975)

    needed = needed_images(bounds, 0.001, images=3)  # type: ignore[arg-type]
    assert needed is not None
    assert rate(0, needed, 0.975).high <= 0.001
    assert rate(0, round(needed / 1.05), 0.975).high > 0.001


def test_no_number_of_images_is_enough_at_the_gate_itself() -> None:
    found = needed_images(
        lambda factor: rate(round(10 * factor), round(10_000 * factor), 0.975),
        0.001,
        images=10_000,
    )
    assert found is None


def test_shares_have_two_digits_or_more_if_ambiguous() -> None:
    assert percent(0.000368) == "0.037%"
    assert percent(0.00104, beside=0.001) == "0.104%"
    assert percent(0.0011, beside=0.001) == "0.11%"
    assert percent(0.999) == "100%"
    assert points(0.0012) == "0.12"
    assert points(0.00104, beside=0.001) == "0.104"
    assert points(0.001, beside=0.001) == "0.10000"
