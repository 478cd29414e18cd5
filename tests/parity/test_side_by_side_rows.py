"""Two rows at a time: only if there is memory, never on a GPU, and nothing is lost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from samples import PASSED

from toolkit.errors import OutputError
from toolkit.parity import side_by_side
from toolkit.parity.side_by_side import judge_side_by_side

GIGABYTE = 1_000_000_000


@dataclass
class Session:
    """What `judge_side_by_side` needs of a session."""

    device: str = "cpu"
    memory_bytes: int = GIGABYTE
    compiles: bool = False
    entered: bool = False

    @property
    def candidate(self) -> Any:
        return SimpleNamespace(
            settings=SimpleNamespace(device=self.device),
            runtime=SimpleNamespace(compiles=self.compiles),
        )

    def peak_memory_bytes(self) -> int:
        return self.memory_bytes

    def __enter__(self) -> Session:
        self.entered = True
        return self

    def __exit__(self, *error: object) -> None:
        pass


@dataclass
class Check:
    """Notes how many rows are judged at the same time; row 1 waits until row 2 has begun."""

    alone: bool = False
    now: int = 0
    most: int = 0
    second: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    raises: Exception | None = None

    def judge(self, session: Session, basis: Any) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if self.raises is not None:
                raise self.raises
            if self.now == 2:
                self.second.set()
            elif not self.alone:
                self.second.wait(5)
            return PASSED, None
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "usable_cores", lambda: 2)
    available(monkeypatch, 10 * GIGABYTE)


def available(monkeypatch: pytest.MonkeyPatch, amount: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=amount))


def judged(check: Check, sessions: list[Session]) -> list[int]:
    found = judge_side_by_side(check, None, sessions)  # type: ignore[arg-type]
    return [each.place for each in found]


def test_first_row_is_judged_alone_and_then_two_at_a_time() -> None:
    check = Check(alone=True)
    generator = judge_side_by_side(check, None, [Session(), Session(), Session()])  # type: ignore[arg-type, list-item]
    assert next(generator).place == 0
    assert check.most == 1
    check.alone = False
    assert sorted(each.place for each in generator) == [1, 2]
    assert check.most == 2


@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"memory_bytes": 6 * GIGABYTE}])
def test_large_rows_and_rows_of_a_gpu_are_judged_one_at_a_time(changes: dict[str, Any]) -> None:
    check = Check(alone=True)
    assert judged(check, [Session(**changes) for _ in range(3)]) == [0, 1, 2]
    assert check.most == 1


def test_rows_that_compile_begin_early_because_they_take_longest() -> None:
    sessions = [Session(device="cuda", compiles=each == 2) for each in range(4)]
    assert judged(Check(alone=True), sessions) == [0, 2, 1, 3]


def test_one_core_judges_one_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "usable_cores", lambda: 1)
    check = Check(alone=True)
    assert judged(check, [Session() for _ in range(3)]) == [0, 1, 2]
    assert check.most == 1


def test_error_ends_the_work() -> None:
    sessions = [Session() for _ in range(3)]
    with pytest.raises(OutputError, match="full"):
        judged(Check(raises=OutputError("full")), sessions)
    assert [each.entered for each in sessions] == [True, False, False]
