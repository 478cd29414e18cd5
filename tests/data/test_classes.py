"""Class names → labels: a missing or foreign name never moves the number of another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.classes import choose_classes, in_order, is_left_behind, missing_classes
from toolkit.data.raw import Remarks, Wanted
from toolkit.errors import DatasetError

NAMES = ("ant", "bee", "cat", "dog")


def chosen(
    found: list[str],
    *,
    names: tuple[str, ...] = (),
    classes: int | None = None,
    empty: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], str]:
    """The class names, and the warnings as one text."""
    remarks = Remarks()
    wanted = Wanted(class_names=names, classes=classes)
    return choose_classes(found, wanted, where="here", empty=empty, remarks=remarks), "; ".join(
        remarks.warnings
    )


@settings(deadline=None)
@given(found=st.sets(st.sampled_from([*NAMES, "eel", "fox"]), min_size=1))
def test_names_of_the_checkpoint_keep_their_numbers_whatever_is_found(found: set[str]) -> None:
    if not found & {*NAMES}:
        with pytest.raises(DatasetError, match=r"none of its classes .* is a class of the"):
            chosen([*found], names=NAMES, classes=4)
        return
    order, warned = chosen([*found], names=NAMES, classes=4)
    assert order == NAMES
    for stray in found - {*NAMES}:
        assert stray in warned
    assert ("skipped" in warned) == bool(found - {*NAMES})


def test_the_order_of_the_checkpoint_is_kept() -> None:
    order, _ = chosen(["ant", "bee"], names=("bee", "ant"), classes=2)
    assert order == ("bee", "ant")


def test_without_names_the_number_of_classes_decides() -> None:
    assert chosen([*NAMES], classes=4) == (NAMES, "")
    with pytest.raises(DatasetError, match=r"3 classes \(ant, cat, dog\), but .* has 4.*add a"):
        chosen(["ant", "cat", "dog"], classes=4)
    with pytest.raises(DatasetError, match=r"has 3: their labels are not known.*remove the others"):
        chosen([*NAMES], classes=3)
    assert chosen(["ant", "cat", "dog"], classes=4, empty=("bee",)) == (NAMES, "")
    order, warned = chosen([*NAMES], classes=4, empty=("box",))
    assert (order, warned) == (NAMES, "here: skipped box: no images")


def test_numbers_sort_as_numbers_and_it_is_said() -> None:
    assert in_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert in_order(["10", "9", "a"]) == ["10", "9", "a"]
    assert in_order(["9" * 5000, "9", "10"]) == ["10", "9", "9" * 5000]  # int() refuses it
    order, warned = chosen(["0", "1", "10", "2"])
    assert order == ("0", "1", "2", "10")
    assert "sorted as numbers" in warned
    assert "--class-names" in warned
    assert chosen(["0", "1", "2"])[1] == ""


def test_names_that_are_labels_themselves_are_those_labels() -> None:
    order, _ = chosen(["0", "7", "3"], classes=10)
    assert [order.index(each) for each in ("0", "3", "7")] == [0, 3, 7]
    for names in (["0", "10"], ["00", "1"], ["0", "x"]):
        with pytest.raises(DatasetError, match="labels are not known"):
            chosen(names, classes=10)


def test_missing_classes_are_named() -> None:
    remarks = Remarks()
    missing_classes(NAMES, {0, 2, 3}, split="test", remarks=remarks)
    missing_classes(NAMES, {0, 1, 2, 3}, split="test", remarks=remarks)
    missing_classes(NAMES, {0}, split="train", remarks=remarks)
    assert remarks.warnings == [
        "no test images of class bee",
        "no train images of classes bee, cat, dog",
    ]


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".DS_Store", "._0.png"])
def test_what_systems_leave_behind_is_known(name: str) -> None:
    assert is_left_behind(name)
    assert not is_left_behind("class 0")
