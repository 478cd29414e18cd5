"""The verdict on planted faults: faults fail, and nothing passes vacuously."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from toolkit.errors import (
    Crashed,
    FailedRun,
    NotInstalled,
    OutOfMemory,
    SettingError,
    TimedOut,
    Unsupported,
)
from toolkit.parity.gates import BENIGN_FLOORS, MAX_FLOORS, GateSettings
from toolkit.parity.reference import Reference
from toolkit.parity.verdict import compare, not_run
from toolkit.schema import Artifact, Check, ExpectedError, Gates, ParityReport, Precision

Logits = NDArray[np.float64]

IMAGES, CLASSES = 200, 10
FLOOR = 2.0**-10


def artifact(precision: Precision = "fp32") -> Artifact:
    return Artifact(
        format="onnx",
        precision=precision,
        path="model.onnx",
        size_bytes=1,
        sha256="a",
        checkpoint_sha256="b",
        spec_sha256="c",
        input_shape=(1, 28, 28),
        classes=CLASSES,
    )


def trained(images: int = IMAGES) -> Reference:
    """A model that is right on nine of ten images with margins of about 10."""
    random = np.random.default_rng(0)
    decided = random.integers(0, CLASSES, images)
    logits = random.normal(size=(images, CLASSES))
    logits[np.arange(images), decided] += 15
    labels = np.where(np.arange(images) % 10 == 9, (decided + 1) % CLASSES, decided)
    return with_floor(logits, labels)


def with_floor(logits: Logits, labels: NDArray[np.int64], floor: float = FLOOR) -> Reference:
    """A reference with the same noise floor on all images."""
    return Reference(logits=logits, labels=labels, floors=np.full(len(logits), floor))


def judge(
    reference: Reference,
    candidate: Logits,
    precision: Precision = "fp32",
    *,
    expected_error: ExpectedError | None = None,
    checks: tuple[Check, ...] = (),
    **gates: Any,
) -> ParityReport:
    return compare(
        reference,
        candidate,
        runtime="onnxruntime",
        artifact=artifact(precision),
        gates=GateSettings(**gates).of(precision),
        expected_error=expected_error,
        checks=checks,
    )


def spoiled(reference: Reference, images: int, *, labelled: bool = True) -> Logits:
    """The reference's logits, with another prediction on the first images that are right (or wrong)
    in the reference; the new prediction is wrong as well."""
    logits = reference.logits.copy()
    decided = logits.argmax(1)
    rows = np.flatnonzero((decided == reference.labels) == labelled)[:images]
    assert len(rows) == images
    logits[rows, (decided[rows] + 3) % CLASSES] += 100
    return logits


def with_value(logits: Logits, value: float) -> Logits:
    logits[17, 3] = value
    return logits


FAULTS: dict[str, Callable[[Logits], Logits]] = {
    "permuted rows": lambda logits: np.random.default_rng(1).permutation(logits),
    "rows reversed within batches of 50": lambda logits: np.concatenate(
        [part[::-1] for part in np.split(logits, 4)]
    ),
    "off by one row": lambda logits: np.roll(logits, 1, axis=0),
    "off by one class": lambda logits: np.roll(logits, 1, axis=1),
    "the first batch again and again": lambda logits: np.tile(logits[:50], (4, 1)),
    "a constant answer": lambda logits: np.tile(logits[0], (IMAGES, 1)),
    "all zero": np.zeros_like,
    "sign turned": lambda logits: -logits,
    "one NaN": lambda logits: with_value(logits, np.nan),
    "one infinity": lambda logits: with_value(logits, np.inf),
    "one minus infinity": lambda logits: with_value(logits, -np.inf),
    "all NaN": lambda logits: np.full_like(logits, np.nan),
    "one row missing": lambda logits: logits[:-1],
    "one row too many": lambda logits: np.concatenate([logits, logits[:1]]),
    "no rows": lambda logits: logits[:0],
    "one class missing": lambda logits: logits[:, :-1],
    "one class too many": lambda logits: np.pad(logits, ((0, 0), (0, 1))),
    "transposed": lambda logits: logits.T.copy(),
    "one dimension": lambda logits: logits.ravel(),
    "three dimensions": lambda logits: logits[:, :, None],
    "decisions, not logits": lambda logits: logits.argmax(1).astype(float),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_under_the_default_gates(fault: str, precision: Precision) -> None:
    reference = trained()
    report = judge(reference, FAULTS[fault](reference.logits.copy()), precision)
    assert report.status == "failed"
    assert report.reason


@pytest.mark.parametrize("shape", [(199, 10), (0, 10), (200, 9), (10, 200), (2000,), (200, 10, 1)])
def test_logits_of_another_shape_fail_without_numbers(shape: tuple[int, ...]) -> None:
    report = judge(trained(), np.zeros(shape), max_flips=IMAGES, max_accuracy_drop=1.0)
    assert report.status == "failed"
    assert str(list(shape)) in str(report.reason)
    assert "[200, 10]" in str(report.reason)
    assert report.compared == (shape[0] if len(shape) == 2 else 0)
    assert report.expected == IMAGES
    assert (report.flips, report.accuracy, report.argmax_agreement) == (None, None, None)
    assert (report.max_abs_diff, report.mean_abs_diff, report.nan_count) == (None, None, None)


def test_empty_comparison_does_not_pass() -> None:
    """Zero images agree with zero images, but the comparison must fail."""
    empty = with_floor(np.zeros((0, 10)), np.zeros(0, np.int64))
    report = judge(empty, np.zeros((0, 10)), max_flips=10, max_accuracy_drop=1.0)
    assert (report.status, report.compared, report.expected) == ("failed", 0, 0)


def test_reference_with_one_class_does_not_pass() -> None:
    """With one class every argmax agrees, so agreement says nothing."""
    logits, labels = np.ones((20, 1)), np.zeros(20, np.int64)
    reference = with_floor(logits, labels)
    report = judge(reference, logits)
    assert report.status == "failed"
    assert "two or more classes" in str(report.reason)


def test_reference_with_nan_does_not_pass() -> None:
    """A float64 reference of NaN predicts nothing, so nothing can agree with it."""
    logits, labels = np.full((20, 10), np.nan), np.zeros(20, np.int64)
    reference = with_floor(logits, labels)
    assert judge(reference, np.zeros((20, 10))).status == "failed"


def test_constant_prediction_is_judged_by_logits_with_a_remark() -> None:
    """A healthy file must pass; a file that predicts that class for any image must not."""
    logits = np.zeros((40, 3))
    logits[:, 1] = np.linspace(1, 2, 40)
    reference = with_floor(logits, np.ones(40, np.int64))
    healthy = judge(reference, logits)
    assert healthy.status == "passed"
    assert "class 1 for all 40 images" in healthy.remarks[0]
    constant = judge(reference, np.tile(logits[0], (40, 1)))
    assert (constant.status, constant.flips) == ("failed", 0)
    assert "noise floors" in str(constant.reason)


def flip_of(margin: float, *, away: float) -> ParityReport:
    """The report of one flipped image of 40, whose reference margin is `margin`; the candidate's
    logits of that image are up to `away` noise floors from the reference."""
    logits = np.zeros((40, 3))
    logits[:, 0] = 8.0
    logits[7] = (0.0, 8.0, 0.0)
    logits[5] = (margin, 0.0, -8.0)
    candidate = logits.copy()
    candidate[5] = (margin / 2 - 0.001, margin / 2, -8.0 + 0.25 * away)
    labels = np.zeros(40, np.int64)
    return judge(with_floor(logits, labels, 0.25), candidate)


@pytest.mark.parametrize(
    ("away", "benign", "status"),
    [(0.0, 1, "passed"), (7.9, 1, "passed"), (8.1, 0, "failed"), (30.0, 0, "failed")],
)
def test_flip_is_benign_if_all_logits_are_near(away: float, benign: int, status: str) -> None:
    """If the reference is undecided, a candidate that computes something else flips too."""
    report = flip_of(0.125, away=away)
    assert (report.benign_flips, report.status) == (benign, status)
    (flip,) = report.flipped
    assert (flip.index, flip.label, flip.reference, flip.candidate) == (5, 0, 0, 1)
    assert (flip.margin, flip.benign) == (0.125, bool(benign))


def test_flip_within_twice_the_distance_is_benign() -> None:
    """Both logits lie 2 floors from the reference; the margin is 3 floors."""
    report = flip_of(0.75, away=0.0)
    assert (report.status, report.flips, report.benign_flips) == ("passed", 1, 1)


def test_distant_flip_fails_at_any_margin() -> None:
    report = flip_of(5.0, away=0.0)
    assert (report.status, report.benign_flips) == ("failed", 0)
    assert report.reason == "1 flips, at most 0 allowed"


def test_noisy_image_does_not_excuse_others() -> None:
    reference = trained()
    floors = reference.floors.copy()
    floors[0] = 1e6
    candidate = reference.logits.copy()
    candidate[1] += 1.0
    assert judge(replace(reference, floors=floors), candidate).status == "failed"
    candidate = reference.logits.copy()
    candidate[0] += 1.0
    assert judge(replace(reference, floors=floors), candidate).status == "passed"


@pytest.mark.parametrize(("floors", "status"), [(19.9, "passed"), (20.1, "failed")])
def test_fp32_fails_by_distance_even_without_flips(floors: float, status: str) -> None:
    reference = trained()
    candidate = reference.logits.copy()
    candidate[:, 3] += floors * FLOOR
    report = judge(reference, candidate)
    assert (report.status, report.flips) == (status, 0)
    assert report.max_diff_in_floors == pytest.approx(floors)
    assert report.worst[0].floors == pytest.approx(floors)


def test_max_logit_diff_replaces_the_floors_and_is_reported() -> None:
    reference = trained()
    candidate = reference.logits + 0.5
    assert judge(reference, candidate).status == "failed"
    assert judge(reference, candidate, max_logit_diff=0.6).status == "passed"
    report = judge(reference, candidate, max_logit_diff=0.4)
    assert report.status == "failed"
    assert "--max-logit-diff" in str(report.reason)


def test_classes_masked_on_both_sides_are_healthy() -> None:
    reference = trained()
    for value in (-np.inf, float(np.finfo(np.float32).min)):
        logits = reference.logits.copy()
        logits[:, 8:] = value
        masked = with_floor(logits, np.clip(reference.labels, 0, 7))
        report = judge(masked, logits.astype(np.float32))
        assert (report.status, report.nan_count) == ("passed", 0)
        other = logits.copy()
        other[:, 8] = 0.0
        assert judge(masked, other).status == "failed"
        off = logits.copy()
        off[:, 0] += 1.0
        assert judge(masked, off).status == "failed"


def test_a_check_of_the_second_look_fails_the_row() -> None:
    reference = trained()
    wrong = Check(
        name="one image at a time",
        images=200,
        batch_size=1,
        difference=1.0,
        floors=1e3,
        reason="logits are off",
    )
    report = judge(reference, reference.logits, checks=(wrong,))
    assert (report.status, report.reason) == ("failed", "one image at a time: logits are off")


def test_max_flips_replaces_the_gate_of_fp32() -> None:
    reference = trained()
    candidate = spoiled(reference, 3)
    assert judge(reference, candidate).status == "failed"
    assert judge(reference, candidate, max_flips=2).status == "failed"
    assert judge(reference, candidate, max_flips=3).status == "failed"  # and far away
    assert judge(reference, candidate, max_flips=3, max_logit_diff=200).status == "passed"
    assert judge(reference, candidate, max_flips=2, max_logit_diff=200).status == "failed"


def test_max_flips_applies_to_int8_if_given() -> None:
    """Flips from wrong to wrong cost no accuracy."""
    reference = trained(20_000)
    candidate = spoiled(reference, 3, labelled=False)
    assert judge(reference, candidate, "int8").status == "passed"
    assert judge(reference, candidate, "int8").flips == 3
    assert judge(reference, candidate, "int8", max_flips=2).status == "failed"


def test_accuracy_gate_does_not_disable_the_flip_gate_of_fp32() -> None:
    reference = trained()
    assert judge(reference, spoiled(reference, 1), max_accuracy_drop=1.0).status == "failed"


@pytest.mark.parametrize(
    ("images", "lost", "status"),
    [
        (10_000, 0, "passed"),
        (10_000, 3, "passed"),
        (10_000, 10, "undecided"),
        (10_000, 40, "failed"),
        (250, 0, "undecided"),
        (3, 0, "undecided"),
    ],
)
def test_int8_is_decided_only_with_enough_images(images: int, lost: int, status: str) -> None:
    reference = trained(images)
    report = judge(reference, spoiled(reference, lost), "int8")
    assert report.status == status
    assert report.flips == lost
    assert report.accuracy_drop is not None
    assert report.accuracy_drop.low <= lost / images <= report.accuracy_drop.high
    if status == "undecided":
        assert str(report.reason).endswith(("images are needed", "images would be enough"))


def test_undecided_says_how_many_images_are_needed() -> None:
    reference = trained(250)
    report = judge(reference, reference.logits, "int8")
    assert report.needed_images == pytest.approx(3700, rel=0.05)
    assert "about 3,700 images are needed" in str(report.reason)


def test_equal_losses_and_gains_do_not_pass() -> None:
    """A thousand flips that cancel lose no accuracy."""
    reference = trained(10_000)
    candidate = spoiled(reference, 500)
    wrong = np.flatnonzero(reference.logits.argmax(1) != reference.labels)[:500]
    candidate[wrong, reference.labels[wrong]] += 200
    report = judge(reference, candidate, "int8")
    assert report.accuracy == pytest.approx(0.9)
    assert report.status == "failed"
    assert "1000 flips" in str(report.reason)


def test_three_images_do_not_pass_in_fp32() -> None:
    reference = trained(3)
    assert judge(reference, reference.logits).status == "undecided"
    reference = trained(36)
    assert judge(reference, reference.logits).status == "passed"


@pytest.mark.parametrize(("factor", "status"), [(2.9, "passed"), (3.1, "failed")])
def test_error_beyond_the_expected_rounding_error_fails(factor: float, status: str) -> None:
    reference = trained(10_000)
    noise = np.random.default_rng(0).normal(size=reference.logits.shape)
    noise *= 0.01 * factor / np.sqrt(np.mean(noise**2))
    expected = ExpectedError(rms=0.01, largest=0.1, images=100, method="a test")
    report = judge(reference, reference.logits + noise, "int8", expected_error=expected)
    assert report.status == status
    assert report.rms_error == pytest.approx(0.01 * factor)


def test_all_flips_are_counted_but_few_are_listed() -> None:
    reference = trained()
    report = judge(reference, spoiled(reference, 25), max_flips=24)
    assert (report.status, report.flips, len(report.flipped)) == ("failed", 25, 20)


def test_gates_of_each_precision() -> None:
    exact = Gates(max_flips=0, max_flip_rate=0.1, max_floors=MAX_FLOORS)
    close = Gates(max_accuracy_drop=0.001, max_flip_rate=0.001, max_error_ratio=3.0)
    assert GateSettings().of("fp32") == GateSettings().of("fp64") == exact
    assert GateSettings().of("fp16") == GateSettings().of("int8-dynamic") == close
    assert GateSettings(max_flips=4).of("fp32") == replace(exact, max_flips=4)
    assert GateSettings(max_accuracy_drop=0.5).of("fp32") == replace(exact, max_accuracy_drop=0.5)
    assert GateSettings(max_flips=0).of("int8") == replace(close, max_flips=0)
    assert GateSettings(max_flip_rate=0.02).of("int8") == replace(close, max_flip_rate=0.02)
    loose = GateSettings(max_logit_diff=1.0)
    assert loose.of("fp32") == replace(exact, max_floors=None, max_logit_diff=1.0)
    assert loose.of("int8") == replace(close, max_error_ratio=None, max_logit_diff=1.0)


@pytest.mark.parametrize(
    "gates",
    [
        {"max_flips": -1},
        {"max_accuracy_drop": -0.1},
        {"max_accuracy_drop": float("nan")},
        {"max_flip_rate": 1.5},
        {"max_flip_rate": float("nan")},
        {"max_logit_diff": 0.0},
        {"max_logit_diff": float("inf")},
        {"max_logit_diff": float("nan")},
        {"confidence": 0.0},
        {"confidence": 1.0},
        {"confidence": 97.5},
        {"confidence": float("nan")},
    ],
)
def test_a_gate_out_of_range_is_refused_with_its_option(gates: dict[str, Any]) -> None:
    (name,) = gates
    with pytest.raises(SettingError, match=f"--{name.replace('_', '-')}"):
        GateSettings(**gates)


@pytest.mark.parametrize("kind", [Crashed, TimedOut, OutOfMemory, NotInstalled, Unsupported])
def test_failed_run_has_a_status_and_no_numbers(kind: type[FailedRun]) -> None:
    failure, gates = kind("a reason", stderr_tail="boom"), GateSettings().of("fp32")
    names: dict[str, Any] = {"runtime": "r", "format": "f", "artifact_sha256": None}
    report = not_run(failure, precision="fp32", expected=7, gates=gates, **names)
    assert {name: getattr(report, name) for name in names} == names
    assert report.status.replace("_", "") == kind.__name__.lower()
    assert (report.reason, report.stderr_tail) == ("a reason", "boom")
    assert (report.compared, report.expected, report.gates) == (0, 7, gates)
    assert {report.accuracy, report.flips, report.max_abs_diff, report.nan_count} == {None}


SHAPES = st.tuples(st.integers(1, 8), st.integers(2, 8))
VALUES = st.floats(-100, 100, width=32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Reference, Logits]:
    """A reference and a candidate of its shape; small integers make ties and flips common. The
    reference does not predict the same class for all images."""
    shape = draw(SHAPES)
    values = draw(st.sampled_from([VALUES, st.integers(-2, 2).map(float)]))
    logits, candidate = (draw(hnp.arrays(np.float64, shape, elements=values)) for _ in range(2))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    floor = draw(st.sampled_from([0.01, 0.5, 1.0, 1.5]))
    return with_floor(logits, labels, floor), candidate


@settings(deadline=None)
@given(pairs(), st.sampled_from(["fp32", "int8"]))
def test_identical_logits_never_fail(pair: tuple[Reference, Logits], precision: Precision) -> None:
    reference, _ = pair
    report = judge(reference, reference.logits.copy(), precision)
    assert report.status == "undecided"  # there are at most eight images
    assert judge(reference, reference.logits.copy(), max_flip_rate=1.0).status == "passed"
    assert (report.flips, report.max_abs_diff, report.mean_abs_diff) == (0, 0.0, 0.0)
    assert report.argmax_agreement == 1.0
    assert report.compared == report.expected == len(reference.labels)


@settings(deadline=None)
@given(pairs())
def test_numbers_equal_brute_force(pair: tuple[Reference, Logits]) -> None:
    """Flips, benign flips, agreement, accuracy and distance, counted in plain Python."""
    reference, candidate = pair
    rows, labels = reference.logits.tolist(), reference.labels.tolist()
    best = [max(range(len(row)), key=row.__getitem__) for row in rows]
    chosen = [max(range(len(row)), key=row.__getitem__) for row in candidate.tolist()]
    flips = [i for i in range(len(rows)) if best[i] != chosen[i]]
    distances = np.abs(candidate - reference.logits)
    floor = reference.floors[0]  # above the spacing of float32 at these sizes
    benign = [i for i in flips if max(distances[i]) <= BENIGN_FLOORS * floor]

    report = judge(reference, candidate, max_flip_rate=1.0)
    assert [flip.index for flip in report.flipped] == flips
    assert [flip.index for flip in report.flipped if flip.benign] == benign
    assert (report.flips, report.benign_flips) == (len(flips), len(benign))
    assert report.argmax_agreement == 1 - len(flips) / len(rows)
    far = distances.max() > MAX_FLOORS * floor
    assert report.status == ("failed" if len(flips) > len(benign) or far else "passed")
    assert report.max_diff_in_floors == pytest.approx(distances.max() / floor)
    right = sum(one == label for one, label in zip(chosen, labels, strict=True))
    assert report.accuracy == pytest.approx(right / len(rows))
    assert report.max_abs_diff == distances.max()
    assert report.mean_abs_diff == pytest.approx(distances.mean())


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12).flatmap(
        lambda decided: st.tuples(st.just(decided), st.permutations(range(len(decided))))
    )
)
def test_permuted_batch_passes_only_without_flips(
    case: tuple[list[int], list[int]],
) -> None:
    decided, order = case
    reference = with_floor(10.0 * np.eye(4)[decided], np.asarray(decided))
    moved = sum(decided[new] != old for old, new in zip(decided, order, strict=True))
    report = judge(reference, reference.logits[order], max_flip_rate=1.0)
    assert report.flips == moved
    assert report.status == ("failed" if moved else "passed")


@settings(deadline=None)
@given(pairs(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_single_non_finite_logit_fails_with_any_gates(
    pair: tuple[Reference, Logits], value: float, data: st.DataObject
) -> None:
    reference, _ = pair
    candidate = reference.logits.copy()
    candidate.flat[data.draw(st.integers(0, candidate.size - 1))] = value
    report = judge(reference, candidate, max_flips=candidate.size, max_accuracy_drop=1.0)
    assert (report.status, report.nan_count) == ("failed", 1)


@settings(deadline=None)
@given(pairs(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8))
def test_any_other_shape_fails_under_any_gates(
    pair: tuple[Reference, Logits], shape: tuple[int, ...]
) -> None:
    reference, _ = pair
    assume(shape != reference.logits.shape)
    report = judge(reference, np.zeros(shape), max_flips=100, max_accuracy_drop=1.0)
    assert report.status == "failed"
