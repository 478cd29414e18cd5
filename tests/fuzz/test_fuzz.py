"""The fuzzer itself: it finds planted faults, and some of its cases run in the test command."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import hypothesis
import numpy as np
import pytest
from conftest import PATIENCE_S
from hypothesis import HealthCheck, Phase, given, settings
from samples import PASSED

from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.parity.reference import Reference
from toolkit.schema import Gates, Status

from .apart import Apart
from .artifacts import Damage, fate_of
from .counts import Counts, table
from .parsers import TARGETS
from .targets import Target

_EXAMPLES = 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_each_parser_reads_its_file_and_refuses_or_reads_damaged_ones(
    tmp_path: Path, name: str
) -> None:
    target = TARGETS[name](tmp_path)
    target.read(target.healthy)

    @hypothesis.seed(0)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=target.damaged(target.healthy))
    def once(content: bytes) -> None:
        with contextlib.suppress(ToolkitError):
            target.read(content)

    once()


class Planted(Target):
    """A parser with faults: the content says which."""

    def prepare(self) -> bytes:
        return b"healthy"

    def read(self, content: bytes) -> None:
        if content == b"refuses":
            raise ToolkitError("not this one")
        if content == b"raises":
            raise IndexError("planted")
        if content == b"cannot be printed":
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "planted")
        if content == b"dies":
            os._exit(7)
        if content == b"fills the memory":
            bytearray(1 << 40)
        if content == b"hangs":
            threading.Event().wait()


def test_every_fate_of_a_parser_is_told_apart() -> None:
    with Apart(Planted, timeout_s=PATIENCE_S) as apart:
        assert apart.healthy == b"healthy"
        assert apart.read(b"healthy").fate == "accepted"
        assert apart.read(b"refuses").fate == "refused"
        for content, says in (
            (b"raises", "IndexError: planted"),
            (b"cannot be printed", "UnicodeEncodeError"),
            (b"fills the memory", "MemoryError"),
            (b"dies", "exit code 7"),
        ):
            answer = apart.read(content)
            assert answer.fate == "driver crash"
            assert says in answer.text
        assert apart.read(b"healthy").fate == "accepted"
    with Apart(Planted, timeout_s=1.0) as apart:
        assert apart.read(b"hangs").fate == "hang"


REFERENCE = Reference(
    logits=np.array([[0.0, 1.0], [3.0, 2.0]]),
    labels=np.array([1, 0]),
    floors=np.array([1e-6, 1e-3]),
)


@pytest.mark.parametrize(
    ("row", "column", "moved", "fate"),
    [
        (0, 1, 0.0, "passed"),
        (0, 1, 19e-6, "passed"),
        (0, 1, 21e-6, "wrong pass"),
        (1, 0, 19e-3, "passed"),
        (1, 0, 21e-3, "wrong pass"),
        (1, 0, float("nan"), "wrong pass"),
    ],
)
def test_a_pass_is_compared_once_more(row: int, column: int, moved: float, fate: str) -> None:
    logits = REFERENCE.logits.copy()
    logits[row, column] += moved
    report = replace(PASSED, gates=Gates(max_floors=20.0))
    assert fate_of(report, logits, REFERENCE) == fate


def test_a_pass_without_logits_or_without_a_limit_is_wrong() -> None:
    report = replace(PASSED, gates=Gates(max_floors=20.0))
    assert fate_of(report, None, REFERENCE) == "wrong pass"
    assert fate_of(report, REFERENCE.logits[:1], REFERENCE) == "wrong pass"
    unlimited = replace(PASSED, gates=Gates(max_floors=None))
    assert fate_of(unlimited, REFERENCE.logits, REFERENCE) == "wrong pass"


@pytest.mark.parametrize(
    ("status", "fate"), [("failed", "failed"), ("crashed", "crashed"), ("timed_out", "timed out")]
)
def test_a_row_that_did_not_pass_is_not_a_finding(status: Status, fate: str) -> None:
    assert fate_of(replace(PASSED, status=status), None, REFERENCE) == fate


def test_the_same_seed_does_the_same_damage(tmp_path: Path) -> None:
    checksums: list[str] = []
    for seed in (*range(30), *range(30)):
        folder = tmp_path / f"{len(checksums)}"
        folder.mkdir()
        (folder / "a").write_bytes(bytes(range(256)) * 20)
        (folder / "b").write_bytes(b"content")
        healthy = sha256_of(folder)
        Damage(Random(seed))(folder)
        checksums.append(sha256_of(folder))
    assert checksums[:30] == checksums[30:]
    assert len({*checksums}) >= 25
    assert checksums.count(healthy) <= 6  # zeros over zeros, or a single byte turned around


def test_the_table_counts_cases_and_keeps_findings() -> None:
    counts = Counts(target="onnx")
    for fate in ("passed", "failed", "failed"):
        counts.add(fate)
    counts.add("hang", "too long")
    assert counts.findings == ["hang: too long"]
    assert table([counts]).splitlines()[2].startswith("| onnx | 4 | 0 | 0 | 2 |")
    assert table([counts, counts]).splitlines()[-1].startswith("| all | 8 | 0 | 0 | 4 |")
