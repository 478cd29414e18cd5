"""Planted faults are caught, healthy variants pass: some of each kind, on 300 images.

`pytest -m slow tests/faults` runs all cases on 2,000 and 10,000 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .cases import ALL, FAULTS, HEALTHY
from .harness import Harness
from .records import Case, Outcome
from .table import PAGE

SHORT = [case for case in ALL if case.short]
BEDS = list(dict.fromkeys(case.bed for case in ALL))
# The reference checkpoint's cases in parts, so that several processes share them.
PARTS = {
    f"{bed}: {runtime}": [case for case in ALL if (case.bed, case.runtime) == (bed, runtime)]
    for bed in BEDS
    for runtime in dict.fromkeys(case.runtime for case in ALL if case.bed == bed)
}


def wrong(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the cases with a wrong verdict or a wrong cause."""
    return [
        f"{each.case.name}: {each.status}, cause {each.cause}: {each.reason}"
        for each in outcomes
        if not each.right or each.named_wrongly
    ]


def test_there_are_120_faults_and_120_healthy_variants_with_unique_names() -> None:
    assert len(FAULTS) >= 120
    assert len(HEALTHY) >= 120
    names = [(case.bed, case.slug) for case in ALL]
    assert len(names) == len(set(names))


def test_faults_page_has_a_row_for_each_case() -> None:
    """Write it again with `python -m tests.faults --out docs/faults.md`."""
    page = PAGE.read_text()
    assert [case.name for case in ALL if f"| {case.name} |" not in page] == []


def test_some_faults_of_each_kind_are_caught_and_some_healthy_variants_pass(
    tmp_path: Path,
) -> None:
    outcomes = Harness(tmp_path, images=300).judge(SHORT)
    assert {case.level for case in SHORT} >= {"file", "runtime", "checkpoint", "healthy"}
    assert not wrong(outcomes), "\n".join(wrong(outcomes))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", PARTS)
def test_every_fault_is_caught_and_every_healthy_variant_passes(part: str, tmp_path: Path) -> None:
    cases: list[Case] = PARTS[part]
    outcomes = Harness(tmp_path, images=2000).judge(cases)
    assert not wrong(outcomes), "\n".join(wrong(outcomes))
