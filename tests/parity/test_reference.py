"""Noise floors: per image, never below float32's spacing, not affected by masked classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.parity.gates import BENIGN_FLOORS, GateSettings
from toolkit.parity.reference import Reference, distances, noise_floors, spacing, unclear
from toolkit.parity.verdict import compare
from toolkit.schema import Artifact

IMAGES, CLASSES = 300, 10


def logits_of(seed: int, *, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(IMAGES, CLASSES))
    logits[np.arange(IMAGES), random.integers(0, CLASSES, IMAGES)] += 8
    return logits * scale + offset


def rounded(logits: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Add rounding errors like those of float32 sums in some order."""
    random = np.random.default_rng(seed)
    return (logits + noise * random.normal(size=logits.shape)).astype(np.float32)


def test_noise_floor_is_the_distance_of_that_image() -> None:
    reference = logits_of(0)
    run = reference.copy()
    run[:, 2] += 1e-3
    run[7, 1] += 0.5
    floors = noise_floors(reference, [run])
    assert floors[7] == pytest.approx(0.5)
    np.testing.assert_allclose(np.delete(floors, 7), 1e-3)


def test_noise_floor_is_independent_of_other_images() -> None:
    reference = logits_of(0)
    runs = [rounded(reference, seed, 1e-6) for seed in range(4)]
    before = noise_floors(reference, runs)
    runs[0][3] += 100
    after = noise_floors(reference, runs)
    assert after[3] > 99
    np.testing.assert_allclose(np.delete(after, 3), np.delete(before, 3), rtol=0.05)


def test_image_with_chance_agreement_gets_the_typical_floor() -> None:
    """A few float32 results may agree with float64 to the bit."""
    reference = logits_of(0)
    run = rounded(reference, 1, 1e-5)
    run[3] = reference[3]
    assert noise_floors(reference, [run])[3] > 1e-6


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_noise_floor_is_at_least_the_float32_spacing_of_the_logits(offset: float) -> None:
    reference = logits_of(0, offset=offset)
    floors = noise_floors(reference, [reference])
    top = reference.max(axis=1)
    assert (floors >= spacing(top)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_floors_follow_the_scale_of_the_logits(scale: float) -> None:
    plain = noise_floors(logits_of(0), [rounded(logits_of(0), 1, 1e-6)])
    scaled = noise_floors(
        logits_of(0, scale=scale), [rounded(logits_of(0), 1, 1e-6).astype(np.float64) * scale]
    )
    np.testing.assert_allclose(scaled, plain * scale, rtol=0.5)


def test_masked_class_does_not_excuse_others() -> None:
    """x + the smallest float32: float64 keeps x, float32 does not."""
    reference = logits_of(0)
    reference[:, 9] += float(np.finfo(np.float32).min)
    run = rounded(reference, 1, 1e-6)
    floors = noise_floors(reference, [run])
    assert floors.max() < 1e-4


def test_infinities_of_both_sides_are_equal() -> None:
    reference = np.array([[1.0, -np.inf], [1.0, 2.0]])
    assert distances(reference, np.array([[1.0, -np.inf], [1.0, -np.inf]])).tolist() == [
        [0.0, 0.0],
        [0.0, np.inf],
    ]


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one float32 run"):
        noise_floors(np.zeros((4, 3)), [])
    with pytest.raises(ValueError, match="at least one image"):
        noise_floors(np.zeros((0, 3)), [np.zeros((0, 3))])


def test_logits_smaller_than_the_noise_are_unclear() -> None:
    logits = np.array([[0.0, 1.0], [0.0, 1e-6]])
    reference = Reference(logits=logits, labels=np.ones(2, np.int64), floors=np.full(2, 1e-6))
    assert unclear(reference, 20).tolist() == [False, True]


def near_ties(seed: int) -> tuple[Reference, np.ndarray]:
    """A reference with near ties of some floors on every third image, and another float32 result
    of the same model."""
    random = np.random.default_rng(seed)
    noise = 10.0 ** random.uniform(-7, -3)
    offset = random.choice([0.0, 1.0, 1e5])
    logits = logits_of(seed, offset=float(offset))
    tied = np.arange(0, IMAGES, 3)
    best = logits[tied].argmax(1)
    margin = max(noise, float(spacing(np.array(offset)))) * random.uniform(0, 4, len(tied))
    logits[tied, (best + 1) % CLASSES] = logits[tied].max(1) - margin
    runs = [rounded(logits, 1000 + seed * 9 + run, noise) for run in range(5)]
    reference = Reference(logits=logits, labels=logits.argmax(1), floors=noise_floors(logits, runs))
    return reference, rounded(logits, 5000 + seed, noise)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000))
def test_near_ties_of_healthy_float32_are_benign(seed: int) -> None:
    reference, candidate = near_ties(seed)
    report = compare(
        reference,
        candidate,
        runtime="any",
        artifact=Artifact(
            format="onnx",
            precision="fp32",
            path="model.onnx",
            size_bytes=1,
            sha256="a",
            checkpoint_sha256="b",
            spec_sha256="c",
            input_shape=(1, 1, 1),
            classes=CLASSES,
        ),
        gates=GateSettings().of("fp32"),
    )
    assert (report.status, report.benign_flips) == ("passed", report.flips)
    assert report.max_diff_in_floors is not None
    assert report.max_diff_in_floors <= BENIGN_FLOORS


def test_near_ties_can_flip() -> None:
    """Without flips, the previous test would prove nothing."""
    flips = [
        int(np.sum(candidate.argmax(1) != reference.logits.argmax(1)))
        for reference, candidate in map(near_ties, range(20))
    ]
    assert sum(flips) > 100
