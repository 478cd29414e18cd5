"""Timing: which inputs are timed, what is kept, and clocks that are wrong."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE_S, wait_until
from hypothesis import given
from hypothesis import strategies as st

from toolkit.timing import ClockError, Stopwatch, time_calls, time_streams

# Threads that wait forever cannot be joined: a test that hangs ends the whole process.
pytestmark = pytest.mark.timeout(3600, method="thread")

STREAMS = 3


class Recorder:
    """Records the inputs that it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, value: str) -> str:
        self.given.append(value)
        return f"{value}{len(self.given)}"


@given(st.integers(1, 20), st.integers(0, 100), st.integers(1, 5), st.data())
def test_inputs_rotate_from_the_offset_on(
    calls: int, offset: int, distinct: int, data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, calls - 1))
    inputs, run = "abcde"[:distinct], Recorder()
    samples_ns, output = time_calls(run, inputs, calls=calls, offset=offset, kept=kept)
    assert run.given == [inputs[(offset + call) % distinct] for call in range(calls)]
    assert output == f"{run.given[kept]}{kept + 1}"
    assert len(samples_ns) == calls
    assert min(samples_ns) >= 0


def clock_of(monkeypatch: pytest.MonkeyPatch, readings: Iterator[int]) -> None:
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(readings))


def test_each_call_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time between two calls belongs to neither."""
    clock_of(monkeypatch, iter([0, 5, 100, 107, 1000, 1001]))
    assert time_calls(str, [1], calls=3)[0] == [5, 7, 1]


def test_a_clock_that_goes_backwards_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_of(monkeypatch, iter([0, 10, 2_000_000_000, 500_000_000]))
    with pytest.raises(ClockError, match=r"the clock went backwards by 1\.5 s; measure again"):
        time_calls(str, [1], calls=2)


def test_clock_that_does_not_move_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_of(monkeypatch, itertools.repeat(7))
    with pytest.raises(ClockError, match="did not move during 4 calls; use a larger batch size"):
        time_calls(str, [1], calls=4)


def test_coarse_clock_may_sometimes_read_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_of(monkeypatch, iter([0, 0, 0, 4]))
    assert time_calls(str, [1], calls=2)[0] == [0, 4]


def test_a_stopwatch_gives_seconds_above_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_of(monkeypatch, iter([10, 10, 2_500_000_010]))
    watch = Stopwatch()
    assert 0 < watch.elapsed_s() < 1e-6
    assert watch.elapsed_s() == 2.5


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(STREAMS) as found:
        yield found


def test_each_stream_has_its_calls_and_its_kept_output(pool: ThreadPoolExecutor) -> None:
    """Each begins one input further; one untimed call uses the input before it."""
    runs = [Recorder() for _ in range(STREAMS)]
    found = time_streams(runs, "abcde", pool, calls=6, offset=2, kept=1)
    assert [len(samples_ns) for samples_ns, _ in found] == [6, 6, 6]
    assert [run.given[:7] for run in runs] == [list("bcdeabc"), list("cdeabcd"), list("deabcde")]
    assert [output for _, output in found] == ["d3", "e3", "a3"]


def test_all_streams_run_at_the_same_time(pool: ThreadPoolExecutor) -> None:
    """Each call waits until every stream is in a call: sequential streams would never meet."""
    meeting = threading.Barrier(STREAMS, timeout=PATIENCE_S)
    calls = [itertools.count() for _ in range(STREAMS)]

    def run_of(number: int) -> Callable[[str], int]:
        def run(_: str) -> int:
            call = next(calls[number])
            if call < 5:  # the untimed call and the timed ones
                meeting.wait()
            return call

        return run

    found = time_streams([run_of(number) for number in range(STREAMS)], "a", pool, calls=4)
    assert [len(samples_ns) for samples_ns, _ in found] == [4] * STREAMS


def test_fast_stream_continues_untimed_until_the_slow_one_finishes(
    pool: ThreadPoolExecutor,
) -> None:
    fast, slow_began = Recorder(), threading.Event()
    slow_calls = itertools.count()

    def slow(_: str) -> str:
        if next(slow_calls) == 2:  # its last timed call ends after the other has finished its own
            slow_began.set()
            wait_until(lambda: len(fast.given) >= 10, "the fast stream continues")
        return ""

    streams: list[Callable[[str], str]] = [fast, slow]
    (samples_ns, _), _ = time_streams(streams, "ab", pool, calls=2)
    assert len(samples_ns) == 2
    assert slow_began.is_set()
    assert len(fast.given) >= 10


@pytest.mark.parametrize("bad_call", [0, 1, 3], ids=["before", "first timed", "later"])
@pytest.mark.parametrize("failing", range(STREAMS))
def test_failing_stream_ends_all_streams_and_its_error_is_raised(
    pool: ThreadPoolExecutor, bad_call: int, failing: int
) -> None:
    def run_of(number: int) -> Callable[[str], str]:
        calls = itertools.count()

        def run(_: str) -> str:
            if next(calls) == bad_call and number == failing:
                raise ZeroDivisionError(f"stream {number}")
            return ""

        return run

    runs = [run_of(number) for number in range(STREAMS)]
    with pytest.raises(ZeroDivisionError, match=f"stream {failing}"):
        time_streams(runs, "ab", pool, calls=5)
    assert len(time_streams([str] * STREAMS, "ab", pool, calls=2)) == STREAMS  # the pool is free
