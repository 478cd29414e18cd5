"""Several rows at a time: sessions → parity reports, in the order in which they are ready.

A verdict does not depend on the time that it takes, so two workers may share the machine. They do
so if there are cores and free memory for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

import psutil

from toolkit.errors import FailedRun
from toolkit.machine.environment import usable_cores
from toolkit.parity.check import Basis, ParityCheck
from toolkit.schema import ParityReport
from toolkit.sessions.remote import RemoteSession
from toolkit.timing import Stopwatch

_MOST_AT_A_TIME = 2
_SPARE = 2.0  # free memory for another worker, in units of the largest worker so far


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The report of the session at `place`, the seconds that it took, and the largest memory of its
    worker (0 if unknown)."""

    place: int
    report: ParityReport
    seconds: float
    memory_bytes: int


def judge_side_by_side(
    check: ParityCheck, basis: Basis, sessions: Sequence[RemoteSession]
) -> Generator[Judged, None, None]:
    """Judge each session, the first one alone, and yield each report when it is ready.

    After an interruption, the caller closes the sessions, which ends the threads.
    """
    waiting = deque(_in_order(sessions))
    running: set[Future[Judged]] = set()
    largest = 0

    def judge(place: int) -> Judged:
        watch, memory = Stopwatch(), 0
        with sessions[place] as session:
            report, _ = check.judge(session, basis)
            with suppress(FailedRun):
                memory = session.peak_memory_bytes()
        return Judged(place=place, report=report, seconds=watch.elapsed_s(), memory_bytes=memory)

    pool = ThreadPoolExecutor(_MOST_AT_A_TIME)
    try:
        while waiting or running:
            while (
                waiting
                and len(running) < _MOST_AT_A_TIME
                and (not running or _fits(largest, sessions[waiting[0]]))
            ):
                running.add(pool.submit(judge, waiting.popleft()))
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for each in ready:
                judged = each.result()
                largest = max(largest, judged.memory_bytes)
                yield judged
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(sessions: Sequence[RemoteSession]) -> list[int]:
    """Return the places of the sessions: the first one, then those that take longest, because they
    compile, then the others."""
    first, *others = range(len(sessions))
    return [first, *sorted(others, key=lambda at: not sessions[at].candidate.runtime.compiles)]


def _fits(largest: int, session: RemoteSession) -> bool:
    """Return whether a second worker may start, if the largest so far needed that many bytes."""
    if not largest or session.candidate.settings.device != "cpu" or usable_cores() == 1:
        return False
    return psutil.virtual_memory().available > _SPARE * largest
