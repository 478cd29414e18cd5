"""The verifier, tried on planted faults: what must fail fails, and nothing passes vacuously."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from toolkit.errors import Crashed, FailedRun, NotInstalled, OutOfMemory, TimedOut, Unsupported
from toolkit.parity import Reference, compare, default_gates, noise_floor, not_run
from toolkit.schema import Artifact, Gates, ParityReport, Precision

Logits = NDArray[np.float64]

IMAGES, CLASSES = 200, 10
FLOOR = 2.0**-10


def artifact(precision: Precision = "fp32") -> Artifact:
    names = {"format": "onnx", "path": "model.onnx", "sha256": "a", "checkpoint_sha256": "b"}
    names["spec_sha256"] = "c"
    shape = {"size_bytes": 1, "input_shape": (1, 28, 28), "classes": CLASSES}
    return Artifact(precision=precision, **names, **shape)


def trained(images: int = IMAGES) -> Reference:
    """A model that is right on nine images of ten, and sure of itself: margins of about 10."""
    random = np.random.default_rng(0)
    decided = random.integers(0, CLASSES, images)
    logits = random.normal(size=(images, CLASSES))
    logits[np.arange(images), decided] += 15
    labels = np.where(np.arange(images) % 10 == 9, (decided + 1) % CLASSES, decided)
    return Reference(logits=logits, labels=labels, noise_floor=FLOOR)


def judge(
    reference: Reference,
    candidate: Logits,
    precision: Precision = "fp32",
    *,
    max_flips: int | None = None,
    max_accuracy_drop: float | None = None,
) -> ParityReport:
    gates = default_gates(precision, max_flips=max_flips, max_accuracy_drop=max_accuracy_drop)
    return compare(
        reference, candidate, runtime="onnxruntime", artifact=artifact(precision), gates=gates
    )


def spoiled(reference: Reference, images: int, *, labelled: bool = True) -> Logits:
    """The reference's logits, with another decision on the first images that are right (or wrong)
    in the reference; the new decision is wrong as well."""
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


def test_nothing_to_compare_is_no_pass() -> None:
    """Zero images agree with zero images, and fail all the same."""
    empty = Reference(logits=np.zeros((0, 10)), labels=np.zeros(0, np.int64), noise_floor=FLOOR)
    report = judge(empty, np.zeros((0, 10)), max_flips=10, max_accuracy_drop=1.0)
    assert (report.status, report.compared, report.expected) == ("failed", 0, 0)


def test_a_reference_of_one_class_is_no_pass() -> None:
    """With one class every argmax agrees, so agreement says nothing."""
    logits, labels = np.ones((20, 1)), np.zeros(20, np.int64)
    reference = Reference(logits=logits, labels=labels, noise_floor=FLOOR)
    report = judge(reference, logits)
    assert report.status == "failed"
    assert "two or more classes" in str(report.reason)


def test_a_reference_of_nan_is_no_pass() -> None:
    """A float64 reference of NaN decides nothing, so nothing can agree with it."""
    logits, labels = np.full((20, 10), np.nan), np.zeros(20, np.int64)
    reference = Reference(logits=logits, labels=labels, noise_floor=FLOOR)
    assert judge(reference, np.zeros((20, 10))).status == "failed"


def test_a_reference_that_decides_the_same_for_all_images_is_no_pass() -> None:
    """An artifact that answers one class for anything would agree with it."""
    logits = np.zeros((20, 3))
    logits[:, 1] = np.linspace(1, 2, 20)
    reference = Reference(logits=logits, labels=np.ones(20, np.int64), noise_floor=FLOOR)
    report = judge(reference, logits)
    assert report.status == "failed"
    assert "class 1 on all 20 images" in str(report.reason)


def flip_of(margin: float, *, other: float = -1.0) -> ParityReport:
    """The report of one flipped image of 20, whose reference margin is `margin`; the candidate's
    third logit of that image is `other`, the reference's -1."""
    logits = np.zeros((20, 3))
    logits[:, 0] = 8.0
    logits[7] = (0.0, 8.0, 0.0)
    logits[5] = (margin, 0.0, -1.0)
    candidate = logits.copy()
    candidate[5] = (-0.125, 0.0, other)
    return judge(
        Reference(logits=logits, labels=np.zeros(20, np.int64), noise_floor=0.25), candidate
    )


def test_a_flip_below_the_noise_floor_is_benign_and_passes() -> None:
    report = flip_of(0.125)
    assert (report.status, report.flips, report.benign_flips) == ("passed", 1, 1)
    (flip,) = report.flipped
    assert (flip.index, flip.label, flip.reference, flip.candidate) == (5, 0, 0, 1)
    assert (flip.margin, flip.benign) == (0.125, True)


@pytest.mark.parametrize(("other", "benign"), [(0.0, 1), (-2.0, 1), (-2.5, 0), (-40.0, 0)])
def test_a_flip_far_from_the_reference_is_real_though_its_margin_is_small(
    other: float, benign: int
) -> None:
    """Where the reference is undecided, a candidate that computes something else flips too."""
    assert flip_of(0.125, other=other).benign_flips == benign


@pytest.mark.parametrize("margin", [0.25, 0.5, 4.0])
def test_a_flip_at_or_above_the_noise_floor_is_real_and_fails(margin: float) -> None:
    report = flip_of(margin)
    assert (report.status, report.flips, report.benign_flips) == ("failed", 1, 0)
    assert report.reason == "1 flips, at most 0 allowed"
    assert report.flipped[0].margin == margin


def test_max_flips_replaces_the_gate_of_fp32() -> None:
    reference = trained()
    candidate = spoiled(reference, 3)
    assert judge(reference, candidate).status == "failed"
    assert judge(reference, candidate, max_flips=2).status == "failed"
    assert judge(reference, candidate, max_flips=3).status == "passed"


def test_max_flips_also_binds_int8_when_it_is_given() -> None:
    """Flips from wrong to wrong cost no accuracy, so only `max_flips` can see them."""
    reference = trained()
    candidate = spoiled(reference, 3, labelled=False)
    assert judge(reference, candidate, "int8").status == "passed"
    assert judge(reference, candidate, "int8").flips == 3
    assert judge(reference, candidate, "int8", max_flips=2).status == "failed"


def test_a_given_accuracy_gate_does_not_excuse_fp32_from_its_flips() -> None:
    reference = trained()
    assert judge(reference, spoiled(reference, 1), max_accuracy_drop=1.0).status == "failed"


@pytest.mark.parametrize(
    ("images", "gate", "allowed"),
    [(1000, None, 1), (10_000, None, 10), (1000, 0.03, 30), (50, 0.0, 0)],
)
def test_a_drop_of_exactly_the_gate_passes_and_one_image_more_fails(
    images: int, gate: float | None, allowed: int
) -> None:
    reference = trained(images)
    for drop, status in ((allowed, "passed"), (allowed + 1, "failed")):
        report = judge(reference, spoiled(reference, drop), "int8", max_accuracy_drop=gate)
        assert report.status == status
        assert report.accuracy == pytest.approx(0.9 - drop / images)
        assert report.reference_accuracy == pytest.approx(0.9)


def test_a_drop_above_the_gate_fails_where_the_gate_is_no_whole_number_of_images() -> None:
    reference = trained(700)
    report = judge(reference, spoiled(reference, 1), "int8", max_accuracy_drop=0.001)
    assert report.status == "failed"


def test_all_flips_are_counted_though_few_are_listed() -> None:
    reference = trained()
    report = judge(reference, spoiled(reference, 25), max_flips=24)
    assert (report.status, report.flips, len(report.flipped)) == ("failed", 25, 20)


def test_gates_of_each_precision() -> None:
    exact = Gates(max_flips=0, max_accuracy_drop=None)
    close = Gates(max_flips=None, max_accuracy_drop=0.001)
    assert default_gates("fp32") == default_gates("fp64") == exact
    assert default_gates("fp16") == default_gates("bf16") == default_gates("int8") == close
    assert default_gates("fp32", max_flips=4) == replace(exact, max_flips=4)
    assert default_gates("fp32", max_accuracy_drop=0.5) == replace(exact, max_accuracy_drop=0.5)
    assert default_gates("int8", max_flips=0) == replace(close, max_flips=0)
    assert default_gates("int8", max_accuracy_drop=0.0) == replace(close, max_accuracy_drop=0.0)


def test_noise_floor_is_the_largest_distance_of_any_run() -> None:
    reference = np.zeros((4, 3))
    near, far = reference + 0.5, reference.copy()
    far[2, 1] = -0.75
    assert noise_floor(reference, [near, far]) == 0.75


def test_noise_floor_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one float32 run"):
        noise_floor(np.zeros((4, 3)), [])
    with pytest.raises(ValueError, match="at least one image"):
        noise_floor(np.zeros((0, 3)), [np.zeros((0, 3))])


@pytest.mark.parametrize("kind", [Crashed, TimedOut, OutOfMemory, NotInstalled, Unsupported])
def test_what_could_not_be_run_has_its_status_and_no_numbers(kind: type[FailedRun]) -> None:
    failure, gates = kind("a reason", stderr_tail="boom"), default_gates("fp32")
    names = {"runtime": "r", "format": "f", "artifact_sha256": None}
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
    reference does not decide the same for all images."""
    shape = draw(SHAPES)
    values = draw(st.sampled_from([VALUES, st.integers(-2, 2).map(float)]))
    logits, candidate = (draw(hnp.arrays(np.float64, shape, elements=values)) for _ in range(2))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    floor = draw(st.sampled_from([0.0, 0.5, 1.0, 1.5]))
    assume(len(logits) == 1 or len(set(logits.argmax(1))) > 1)
    return Reference(logits=logits, labels=labels, noise_floor=floor), candidate


@settings(deadline=None)
@given(pairs(), st.sampled_from(["fp32", "int8"]))
def test_identical_logits_always_pass(pair: tuple[Reference, Logits], precision: Precision) -> None:
    reference, _ = pair
    report = judge(reference, reference.logits.copy(), precision)
    assert (report.status, report.reason) == ("passed", None)
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
    ordered = [sorted(row, reverse=True) for row in rows]
    distances = np.abs(candidate - reference.logits)
    benign = [
        i
        for i in flips
        if ordered[i][0] - ordered[i][1] < reference.noise_floor
        and max(distances[i]) <= 4 * reference.noise_floor
    ]

    report = judge(reference, candidate)
    assert [flip.index for flip in report.flipped] == flips
    assert [flip.index for flip in report.flipped if flip.benign] == benign
    assert (report.flips, report.benign_flips) == (len(flips), len(benign))
    assert report.argmax_agreement == 1 - len(flips) / len(rows)
    assert report.status == ("failed" if len(flips) > len(benign) else "passed")
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
def test_a_permuted_batch_passes_only_where_no_decision_moves(
    case: tuple[list[int], list[int]],
) -> None:
    decided, order = case
    assume(len(decided) == 1 or len(set(decided)) > 1)
    reference = Reference(
        logits=10.0 * np.eye(4)[decided], labels=np.asarray(decided), noise_floor=FLOOR
    )
    moved = sum(decided[new] != old for old, new in zip(decided, order, strict=True))
    report = judge(reference, reference.logits[order])
    assert report.flips == moved
    assert report.status == ("failed" if moved else "passed")


@settings(deadline=None)
@given(pairs(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_one_logit_that_is_not_finite_fails_under_any_gates(
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
