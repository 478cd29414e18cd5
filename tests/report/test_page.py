"""The report page: its words, its escaping, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import (
    ALL,
    CRASHED,
    FAILED,
    FAST,
    FLIPPED,
    MEASURED,
    NO_OP,
    PASSED,
    SLOW,
    SPEED,
    UNDECIDED,
    ranked,
    results_of,
)

from toolkit.data import Dataset
from toolkit.parity.pictures import MOST_PICTURES, pictures_of
from toolkit.report.page import charts, drawing, render_page
from toolkit.report.verdict import advice, fastest, headline, outcome, provisional, safest, tone
from toolkit.schema import (
    Bound,
    Cause,
    DatasetRecord,
    Interval,
    MachineWarning,
    Measurement,
    ParityReport,
    Picture,
    Round,
)

SCRIPT = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Collects elements, and the text of the page outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def read(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    found.text = " ".join(found.text.split())
    return found


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [PASSED],
            "1 of 1 row agrees with your model (2 of 10,000 decisions differ: at most 0.037%).",
        ),
        (
            [PASSED, replace(PASSED, flips=0), CRASHED],
            "2 of 3 rows agree with your model (up to 2 of 10,000 decisions differ: "
            "at most 0.037%); 1 crashed.",
        ),
        ([FAILED], "0 of 1 row agree with your model; 1 failed."),
        ([FAILED, UNDECIDED], "0 of 2 rows agree with your model; 1 failed, 1 undecided."),
        ([MEASURED], "Nothing was compared with the checkpoint: these results only have speeds."),
    ],
)
def test_headline_counts_the_rows_that_passed(
    rows: list[ParityReport | Measurement], words: str
) -> None:
    assert headline(results_of(*rows)) == words
    assert words in read(render_page(results_of(*rows))).text


@pytest.mark.parametrize(
    ("rows", "found", "words"),
    [
        ([PASSED], "good", "✓ Passed"),
        ([PASSED, FAILED], "bad", "✗ Failed"),
        ([PASSED, UNDECIDED], "open", "? Not decided"),
        ([PASSED, CRASHED], "open", "? Passed as far as it ran"),
        ([CRASHED], "open", "? Nothing ran"),
        ([], "open", "? Not compared"),
        ([MEASURED], "open", "? Not compared"),
    ],
)
def test_tone_is_good_only_if_everything_passed(
    rows: list[ParityReport], found: str, words: str
) -> None:
    assert tone(results_of(*rows)) == found
    assert outcome(results_of(*rows)) == words
    assert tone(replace(results_of(*rows), interrupted=True)) != "good"


def test_fastest_row_is_one_that_passed() -> None:
    assert fastest(ranked(SLOW, FAST)) == (
        "Fastest: onnxruntime fp32, 12,346 images/s, 2.50 times eager."
    )
    assert fastest(results_of(PASSED)) is None
    assert fastest(ranked(SLOW)) is None
    other = replace(FAST, name="onnxruntime fp32, batch 1", batch_size=1)
    assert "; onnxruntime fp32, batch 1 may be as fast." in str(
        fastest(ranked(FAST, other, too_close=True))
    )


def test_fastest_row_without_a_changed_prediction_is_named_if_another_one_is_faster() -> None:
    same = replace(SLOW, name="tract fp32", runtime="tract", artifact_sha256="d" * 64)
    results = ranked(FAST, same)
    kept = replace(PASSED, runtime="tract", artifact_sha256="d" * 64, flips=0)
    results = replace(results, parity=(PASSED, kept))
    assert safest(results) == ("Fastest without a changed prediction: tract fp32, 12,346 images/s.")
    assert safest(replace(results, parity=(replace(PASSED, flips=0), kept))) is None
    assert safest(results_of(PASSED)) is None


def test_fastest_row_is_not_one_that_was_left_out_of_the_verification() -> None:
    stranger = replace(FAST, name="stranger", runtime="tract", artifact_sha256="e" * 64)
    assert "onnxruntime fp32" in str(fastest(ranked(stranger, FAST)))
    only_speeds = replace(ranked(stranger, FAST), parity=())
    assert "stranger" in str(fastest(only_speeds))


def test_neighbour_of_a_failed_row_is_not_said_to_be_as_fast_as_the_first() -> None:
    """`too_close` of the last row refers to the failed one before it."""
    other = replace(FAST, name="onnxruntime fp32, batch 1", batch_size=1)
    assert "may be as fast" not in str(fastest(ranked(FAST, SLOW, other, too_close=True)))


def test_fastest_row_of_a_sweep_is_that_of_all_groups() -> None:
    large = replace(FAST, name="batch 1000", batch_size=1000)
    first, second = ranked(FAST, large).ranking
    speed = replace(SPEED, value=99_999.0)
    groups = (first, replace(second, speed=speed, to_faster=None))
    assert "batch 1000, 99,999" in str(fastest(replace(ranked(FAST, large), ranking=groups)))


def test_wrong_outputs_in_timed_calls_fail() -> None:
    wrong = replace(FAST, status="failed", reason="timed outputs differ", images_per_s=None)
    for rows in ([PASSED, wrong], [wrong]):
        results = results_of(*rows)
        assert (tone(results), outcome(results)) == ("bad", "✗ Failed")
        assert [each.text for each in advice(results)] == ["failed: timed outputs differ"]


def test_speeds_of_a_quick_or_disturbed_run_are_called_provisional() -> None:
    assert provisional(ranked(FAST)) is None
    warned = MachineWarning(code="wide", message="", action="")
    disturbed = replace(ranked(FAST), quick=True, warnings=(warned,))
    text = "The speeds are provisional: the run was quick and intervals are wide."
    assert provisional(disturbed) == text
    assert text in read(render_page(disturbed)).text
    assert provisional(replace(results_of(PASSED), quick=True)) is None


def test_advice_names_the_row_the_cause_and_what_to_do() -> None:
    warned = MachineWarning(code="load", message="others work", action="close them")
    results = replace(results_of(PASSED, UNDECIDED, FAILED), warnings=(warned,), quick=True)
    found = [(each.about, each.action) for each in advice(results)]
    assert found == [
        ("openvino fp32 mnist-cnn.onnx", "Export without it."),
        ("run", "Repeat it without --quick before you decide."),
        ("machine", "close them."),
        ("onnxruntime fp32 mnist-cnn.onnx", "Verify with more images: about 3,700."),
    ]
    assert advice(results_of(PASSED, FAST)) == []


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_speed_that_contradicts_its_samples_is_told(factor: float) -> None:
    edited = replace(FAST, images_per_s=replace(SPEED, value=SPEED.value * factor))
    (found,) = advice(results_of(edited))
    assert "was changed after it was written" in found.text


def test_every_text_is_escaped() -> None:
    evil = replace(
        FAILED,
        runtime=SCRIPT,
        reason=SCRIPT,
        file=SCRIPT,
        stderr_tail=SCRIPT,
        remarks=(SCRIPT,),
        cause=Cause(kind=SCRIPT, text=SCRIPT, action=SCRIPT),
    )
    timed = replace(FAST, name=SCRIPT, runtime=SCRIPT, artifact_sha256="b" * 64)
    results = results_of(evil, timed)
    results = replace(
        results,
        command=SCRIPT,
        checkpoint=replace(results.checkpoint, name=SCRIPT, class_names=(SCRIPT,) * 10),
        environment=replace(results.environment, cpu=SCRIPT, versions={SCRIPT: SCRIPT}),
        dataset=replace(results.dataset, name=SCRIPT, sha256={SCRIPT: SCRIPT}),
        warnings=(MachineWarning(code=SCRIPT, message=SCRIPT, action=SCRIPT),),
        pictures=(Picture(index=7, png='"><script>alert(1)</script>'),),
    )
    page = render_page(results)
    assert page.count("<script") == 1
    found = read(page)
    assert found.text.count(SCRIPT) > 15
    assert not [name for _, fields in found.tags for name in fields if name.startswith("on")]


def test_page_needs_no_network() -> None:
    page = render_page(replace(ALL, command="toolkit verify exports"))
    for _, fields in read(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            place = fields.get(name) or "#"
            assert place.startswith(("#", "data:")), place
    assert "@import" not in page
    assert not re.findall(r"url\((?!#|data:)[^)]*\)", page)
    policy = next(
        fields["content"]
        for tag, fields in read(page).tags
        if tag == "meta" and fields.get("http-equiv") == "Content-Security-Policy"
    )
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "toolkit verify exports" in page


def test_page_of_200_rows_is_small() -> None:
    rows = [
        each
        for number in range(200)
        for each in (
            replace(PASSED, artifact_sha256=f"{number:064x}"),
            replace(FAST, name=f"row {number}", artifact_sha256=f"{number:064x}"),
        )
    ]
    page = render_page(results_of(*rows))
    assert len(page.encode()) < 2_000_000
    assert "row 199" in read(page).text


def test_charts_have_a_title_and_a_text_alternative() -> None:
    found = charts.charts_of(ranked(FAST, SLOW))
    assert [each.key for each in found] == ["speed", "choice", "samples", "latency"]
    assert "onnxruntime fp32 is the fastest" in found[0].alternative
    assert "The Pareto set is: onnxruntime fp32." in found[1].alternative
    page = render_page(ranked(FAST, SLOW))
    images = [fields for _, fields in read(page).tags if fields.get("role") == "img"]
    assert [each["aria-label"] for each in images] == [each.alternative for each in found]
    swept = [replace(FAST, name=f"batch {size}", batch_size=size) for size in (1, 10)]
    assert "scaling" in [each.key for each in charts.charts_of(results_of(*swept))]
    assert charts.charts_of(results_of(PASSED, NO_OP)) == []


def test_without_the_drawing_packages_the_page_says_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "installed", lambda: False)
    found = read(render_page(ALL))
    assert "pip install 'toolkit[report]'" in found.text
    assert "1 of 2 rows agrees with your model" in found.text
    assert not [tag for tag, _ in found.tags if tag == "svg"]
    assert "pip install" not in read(render_page(results_of(PASSED))).text


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_pareto_set_holds_what_no_other_row_beats(pairs: list[tuple[int, int]]) -> None:
    rows = [
        replace(FAST, name=str(number), artifact_size_bytes=size, images_per_s=speed_of(speed))
        for number, (size, speed) in enumerate(pairs)
    ]
    best = {int(row.name) for row in charts.pareto(rows)}
    for number, (size, speed) in enumerate(pairs):
        beaten = any((a <= size and b > speed) or (a < size and b >= speed) for a, b in pairs)
        assert (number in best) == (not beaten)


def speed_of(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, passes=2)


def test_images_decided_differently_are_shown_with_both_sides() -> None:
    picture = Picture(index=7, png=base64.b64encode(b"png").decode())
    results = replace(results_of(FAILED, PASSED), pictures=(picture,))
    checkpoint = replace(results.checkpoint, class_names=("zero", "one", "two", "three"))
    page = render_page(replace(results, checkpoint=checkpoint))
    found = read(page)
    assert "image 7, label one, decided differently" in found.text
    assert "checkpoint one: 4.5, three: 4 here three: 6.25, one: NaN or infinite" in found.text
    assert f"data:image/png;base64,{picture.png}" in page


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 30), (3, 300, 200)])
def test_pictures_show_the_pixels(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8)
    passed = replace(PASSED, worst=(replace(FLIPPED, index=2),))
    rows = [passed, FAILED, replace(FAILED, runtime="tract")]
    found = pictures_of(rows, dataset_of(images))
    assert [each.index for each in found] == [7, 2]
    picture = Image.open(io.BytesIO(base64.b64decode(found[0].png)))
    assert max(picture.size) <= 96
    if max(shape) <= 96:
        pixels = np.asarray(picture.convert("L" if shape[0] == 1 else "RGB"))
        assert np.array_equal(pixels, np.moveaxis(images[7], 0, -1).squeeze())


def test_pictures_of_a_sample_have_their_numbers_in_the_whole_set() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    found = pictures_of([FAILED], dataset_of(images), np.array([2, 7, 9]))
    assert [each.index for each in found] == [7]
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0].png)))).max() == 1


def test_at_most_fifty_pictures_are_kept_and_none_of_other_data() -> None:
    many = replace(PASSED, worst=tuple(replace(FLIPPED, index=each) for each in range(60)))
    images = np.zeros((60, 1, 8, 8), np.uint8)
    assert len(pictures_of([many], dataset_of(images))) == MOST_PICTURES
    assert pictures_of([many], dataset_of(np.zeros((60, 40), np.float32))) == ()
    assert pictures_of([many], dataset_of(np.zeros((60, 4, 8, 8), np.uint8))) == ()


def dataset_of(images: np.ndarray) -> Dataset:
    record = DatasetRecord(name="d", split="test", images=len(images), sha256={})
    return Dataset(images=images, labels=np.zeros(len(images), np.int64), record=record)


def test_bound_that_is_unknown_is_not_printed() -> None:
    assert headline(results_of(replace(PASSED, flip_rate=None))) == (
        "1 of 1 row agrees with your model (2 of 10,000 decisions differ)."
    )
    wide = replace(PASSED, flip_rate=Bound(value=0, low=0, high=0.5))
    assert "at most 50%" in headline(results_of(wide))


def test_rounds_without_calls_are_left_out() -> None:
    empty = replace(FAST, passes=(replace(FAST.passes[0], rounds=(Round(samples_s=()),)),))
    assert [each.key for each in charts.charts_of(results_of(empty))] == ["speed"]
