"""Detection of ranges that clip on purpose: for each kind of calibration, and with planted
faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.rounding.clipping import Reach, limits_on_purpose

RANDOM = np.random.default_rng(0)


def extremes(spread: float, *, channels: int = 1, images: int = 200) -> NDArray[np.floating]:
    """Return how far images reach: around 5, and the farthest further by a share of `spread`."""
    return 5 * (1 + spread * RANDOM.uniform(-1, 1, (images, channels)))


def after_relu(spread: float = 0.4, *, channels: int = 1, mean: bool = False) -> Reach:
    """An activation of 0 and above, whose range comes from other images, as a maximum or a mean."""
    seen, highest = extremes(spread, channels=channels), extremes(spread, channels=channels)
    high = seen.mean(0) if mean else seen.max(0)
    return Reach(low=0 * high, high=high, lowest=-highest, highest=highest)


def symmetric(*, mean: bool) -> Reach:
    """A range symmetric around zero; either side may reach further in an image."""
    seen, now = ((extremes(0.4), extremes(0.4)) for _ in range(2))
    largest = np.maximum(*seen)
    high = largest.mean(0) if mean else largest.max(0)
    return Reach(low=-high * 128 / 127, high=high, lowest=-now[0], highest=now[1])


def halved(reach: Reach, factor: float = 2.0) -> Reach:
    return replace(reach, low=reach.low / factor, high=reach.high / factor)


def opened(*reaches: Reach) -> list[list[list[bool]]] | None:
    found = limits_on_purpose(reaches)
    return None if found is None else [[side.tolist() for side in sides] for sides in found]


def test_ranges_of_all_images_clip_nothing_on_purpose() -> None:
    reaches = [after_relu() for _ in range(4)]
    wide = [replace(each, high=each.high * 1.1) for each in reaches]
    assert limits_on_purpose(wide) is None


def test_few_images_beyond_a_range_are_normal() -> None:
    reach = after_relu()
    few = replace(reach, high=np.sort(reach.highest, axis=0)[-5])
    assert opened(few, few) == [[[False], [True]]] * 2
    many = replace(reach, high=np.sort(reach.highest, axis=0)[-50])
    assert opened(many, replace(many, high=many.high * 1.3)) is None


def test_ranges_that_are_all_means_clip_on_purpose() -> None:
    reaches = [after_relu(mean=True), after_relu(0.3, mean=True), symmetric(mean=True)]
    assert opened(*reaches) == [[[False], [True]], [[False], [True]], [[True], [True]]]


def test_symmetric_ranges_are_means_of_the_farther_side() -> None:
    reaches = [symmetric(mean=True) for _ in range(3)]
    assert opened(*reaches) == [[[True], [True]]] * 3


def test_relu_implied_by_the_range_is_kept() -> None:
    found = opened(after_relu(mean=True), after_relu(mean=True))
    assert found is not None
    assert all(low == [False] for low, _ in found)


def test_one_range_that_is_too_small_is_not_on_purpose() -> None:
    """Half of them are close to a mean of extremes, but the others are not."""
    small = halved(replace(after_relu(), high=np.array([9.6])))
    others = [replace(after_relu(), high=np.array([7.5])), symmetric(mean=False)]
    assert opened(small, *others) is None


def test_ranges_that_are_all_too_small_are_not_on_purpose() -> None:
    assert opened(*[halved(after_relu(mean=True), 4) for _ in range(4)]) is None


def test_single_mean_range_is_not_on_purpose() -> None:
    assert opened(after_relu(mean=True)) is None
    same = after_relu(mean=True)
    assert opened(same, same) is None  # one range shared by two pairs


def test_much_smaller_range_in_a_file_of_means_is_not_on_purpose() -> None:
    reaches = [after_relu(mean=True) for _ in range(4)]
    found = opened(*reaches, halved(after_relu(mean=True), 1.6))
    assert found is not None
    assert [high for _, high in found] == [[True]] * 4 + [[False]]


def test_constant_extremes_are_inconclusive() -> None:
    """Each image has a white pixel, so the mean of the maxima is the maximum."""
    white = Reach(
        low=np.zeros(1), high=np.ones(1), lowest=np.zeros((200, 1)), highest=np.ones((200, 1))
    )
    assert opened(white, replace(white, high=np.array([1.01])), after_relu(mean=True)) is None


def test_each_channel_has_its_own_limit() -> None:
    reach = after_relu(channels=3, mean=True)
    reach.high[1] *= 3
    found = opened(reach, after_relu(mean=True), after_relu(mean=True))
    assert found is not None
    assert found[0] == [[False] * 3, [True, False, True]]
