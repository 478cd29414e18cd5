"""Passes: all candidates take turns in rounds, in fresh worker processes for each pass.

In: candidates with batch sizes, images, a plan. Out: the readings of each candidate, in its
`Tally`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import FailedRun
from toolkit.machine.environment import usable_cores
from toolkit.machine.gpu_state import GpuReader, open_reader
from toolkit.machine.gpu_watch import watched
from toolkit.machine.interference import LoadWatch
from toolkit.measurement.allowance import Allowance
from toolkit.measurement.plan import Plan
from toolkit.report.progress import Progress, silent
from toolkit.schema import Attestation, Interference, Interval, Pass, Round, Settings, WarmUp
from toolkit.sessions.candidates import NO_OP, Candidate
from toolkit.sessions.remote import RemoteSession
from toolkit.statistics.samples import STEADY_VALUES, steady
from toolkit.statistics.speeds import throughput
from toolkit.timing import DISTINCT_BATCHES, Stopwatch

_WARM_UP_ROUND_S = 0.025
_WARM_UP_LIMIT_S = 0.5
_GPU_WARM_UP_LIMIT_S = 2.0  # an idle GPU needs a second to reach its clock
_LEAST_WARM_UP_ROUNDS = 3
_MOST_CALLS = 20_000  # a round of a session that answers within 5 µs is shorter than planned
_MOST_NO_OP_CALLS = 1000  # half a millisecond is enough to know its time


@dataclass(kw_only=True)
class Tally:
    """The readings of one candidate so far, at one batch size. After a failure it gets no more
    turns.

    `logits` are those of the images that its calls rotate through: from the verification if there
    was one, else from its first worker. `load_s` is the time that its last worker took to start.
    """

    candidate: Candidate
    batch_size: int
    passes: list[Pass] = field(default_factory=list)
    attestation: Attestation | None = None
    failure: FailedRun | None = None
    logits: NDArray[np.floating] | None = None
    load_s: float = 0.0

    @property
    def table(self) -> tuple[Settings, int]:
        """Settings and batch size. Candidates that share them are compared with each other."""
        return self.candidate.settings, self.batch_size

    def throughput(self) -> Interval | None:
        """Return images/s so far; None if there are too few rounds."""
        return None if self.failure else throughput(self.passes, self.batch_size)


@dataclass(kw_only=True)
class Passes:
    """Runs passes until the plan is fulfilled.

    Attributes:
        tallies: Filled pass by pass.
        images: Raw images `[N,C,H,W]` that the inputs are made of.
        seed: Seed of the order in which candidates take turns.
        together: Whether candidates with different settings or batch sizes also take turns with
            each other. Several of them start at a time, so load times are not reported.
        interference: The load from other processes during the rounds of each pass.
        stopped: Whether the time ran out before the plan was fulfilled.
    """

    tallies: Sequence[Tally]
    images: NDArray[np.uint8]
    plan: Plan
    timeout_s: float
    progress: Progress = silent
    seed: int = 0
    together: bool = False
    interference: list[Interference] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self._allowance = Allowance(self.plan.max_time_s)
        self._random = random.Random(self.seed)
        self._done = {"passes": 0, "warm-up": 0, "rounds": 0}
        on_gpu = any(each.candidate.settings.device == "cuda" for each in self.tallies)
        self._gpu = open_reader() if on_gpu else None

    def each(self, opened: Sequence[RemoteSession] = ()) -> Iterator[int]:
        """Measure pass by pass, and yield the number of finished passes. After Ctrl-C in a pass,
        the tallies contain its readings.

        Args:
            opened: Sessions to use in the first pass, one per tally; they are closed after it.
        """
        while not self._done["passes"] or not (
            self._enough(self._done["passes"]) or self._time_is_over()
        ):
            self._pass(() if self._done["passes"] else opened)
            self._done["passes"] += 1
            yield self._done["passes"]

    def run(self, opened: Sequence[RemoteSession] = ()) -> None:
        """Measure all passes; see `each`."""
        for _ in self.each(opened):
            pass

    @property
    def has_rounds(self) -> bool:
        """Return whether there are any readings."""
        return any(each.rounds for tally in self.tallies for each in tally.passes)

    def _enough(self, passes: int) -> bool:
        alive = [tally for tally in self.tallies if tally.failure is None]
        real = [tally for tally in alive if tally.candidate.runtime.name != NO_OP]
        speeds = (tally.throughput() for tally in real)
        return not alive or self.plan.enough(passes, [each for each in speeds if each is not None])

    def _pass(self, opened: Sequence[RemoteSession]) -> None:
        """Run one pass: candidates with the same settings and batch size take turns, each in its
        own worker; then those with the next settings. The order of starts and warm-ups is random in
        each pass, so that it favours no candidate."""
        tables = dict.fromkeys(self._table(tally) for tally in self.tallies)
        for table in tables:
            alive = [each for each in self.tallies if each.failure is None]
            group = [each for each in alive if self._table(each) == table]
            if self._time_is_over() or not group:
                continue
            if not opened:
                self._random.shuffle(group)
            with ExitStack() as stack:
                sessions = opened or [
                    RemoteSession(
                        tally.candidate, batch_size=tally.batch_size, timeout_s=self.timeout_s
                    )
                    for tally in group
                ]
                for session in sessions:
                    stack.enter_context(session)
                if not opened:
                    self._load(dict(zip(sessions, group, strict=True)))
                self._rounds(
                    [
                        _Turn(*pair, self._allowance, self._gpu)
                        for pair in zip(group, sessions, strict=True)
                    ]
                )

    def _table(self, tally: Tally) -> object:
        return None if self.together else tally.table

    def _load(self, sessions: Mapping[RemoteSession, Tally]) -> None:
        """Load the sessions: one by one in the first pass, whose load times are reported; in later
        passes as many at a time as there are cores, slow ones first. A failure here occurs again,
        and is reported, when the session is used."""
        alone = self._done["passes"] == 0 and not self.together
        pool = ThreadPoolExecutor(1 if alone else usable_cores())
        order = sorted(sessions, key=lambda each: -round(sessions[each].load_s))
        try:
            for session, loading in [(each, pool.submit(each.load)) for each in order]:
                with suppress(FailedRun), self._allowance.not_for_failures():
                    loaded = loading.result()
                    sessions[session].load_s = (
                        loaded.import_s + loaded.load_s + loaded.first_inference_s
                    )
        finally:  # after Ctrl-C the workers are closed, which ends the threads
            pool.shutdown(wait=False, cancel_futures=True)

    def _rounds(self, turns: Sequence[_Turn]) -> None:
        """Run the warm-ups one after another, then rounds in a changing order, and finally one
        round on a repeated input."""
        images = self.images[: turns[0].tally.batch_size * DISTINCT_BATCHES]
        rounds = self.plan.rounds_per_pass
        try:
            for turn in turns:
                if not self._time_is_over():
                    turn.warm_up(images, self.plan)
                self._tell("warm-up", len(self.tallies), turn.session.candidate.label)
            watch = LoadWatch()
            for number in range(rounds + 1):
                if self._time_is_over():
                    break
                for turn in self._random.sample(turns, len(turns)):
                    turn.round(repeat=number == rounds)
                if number < rounds:
                    self._tell("rounds", rounds * len(set(map(self._table, self.tallies))))
            self.interference.append(watch.interference())
            for turn in turns:
                turn.mark_memory()
        finally:
            for turn in turns:
                turn.finish()

    def _time_is_over(self) -> bool:
        self.stopped = self.stopped or self._allowance.is_over()
        return self.stopped

    def _tell(self, label: str, per_pass: int, note: str = "") -> None:
        """Report one more step; reaching the target width may take more passes than planned."""
        self._done[label] += 1
        done = self._done[label]
        passes = max(self.plan.least_passes, math.ceil(done / per_pass))
        self.progress(label, done, passes * per_pass, note)


@dataclass
class _Turn:
    """One candidate in one pass at one batch size."""

    tally: Tally
    session: RemoteSession
    allowance: Allowance
    gpu: GpuReader | None = None
    calls: int = 1
    warmed: WarmUp | None = None
    rounds: list[Round] = field(default_factory=list)
    repeated: Round | None = None
    peak_memory_bytes: int | None = None

    def warm_up(self, images: NDArray[np.uint8], plan: Plan) -> None:
        """Run at least four short rounds until they are steady, for at most half a second. Their
        speed sets the number of calls per round. On a GPU, the clock must be steady too, which may
        take up to two seconds."""
        tally, batch_size = self.tally, self.tally.batch_size
        no_op = tally.candidate.runtime.name == NO_OP
        most = _MOST_NO_OP_CALLS if no_op else _MOST_CALLS

        def step() -> None:
            logits = self.session.prepare(images, batch_size=batch_size, expected=tally.logits)
            tally.logits = logits if tally.logits is None else tally.logits
            first = self.session.measure(calls=1)
            calls, speeds = 1, [first.images_per_s(batch_size)]
            per_round = max(1, min(most, math.ceil(_WARM_UP_ROUND_S / _call_s(first))))
            watch, clocks_hz = Stopwatch(), self._clock_hz()
            limit_s = _GPU_WARM_UP_LIMIT_S if clocks_hz else _WARM_UP_LIMIT_S
            while len(speeds) <= _LEAST_WARM_UP_ROUNDS or not (
                (steady(speeds[1:]) and (not clocks_hz or steady(clocks_hz)))
                or no_op
                or watch.elapsed_s() > limit_s
            ):
                last = self.session.measure(calls=per_round)
                clocks_hz += self._clock_hz()
                calls += per_round
                speeds.append(last.images_per_s(batch_size))
            self.warmed = WarmUp(
                calls=calls * len(last.samples_s),
                wall_s=watch.elapsed_s(),
                steady=steady(speeds[1:]) if len(speeds) > STEADY_VALUES else None,
            )
            streams = len(last.samples_s)
            call_s = streams * batch_size / median(speeds[len(speeds) // 2 :])
            self.calls = plan.calls_per_round(call_s, most=most)

        self._try(step)

    def round(self, *, repeat: bool) -> None:
        """Run one round; without a warm-up there is none."""

        def step() -> None:
            with watched(self.gpu) as states:
                found = self.session.measure(calls=self.calls, repeat=repeat)
            found = replace(found, gpu=tuple(states))
            if repeat:
                self.repeated = found
            else:
                self.rounds.append(found)

        if self.warmed is not None:
            self._try(step)

    def _clock_hz(self) -> list[float]:
        """Return the current clock of the GPU; empty if it is unknown, or on another device."""
        on_gpu = self.tally.candidate.settings.device == "cuda"
        clock_hz = self.gpu.read().clock_hz if self.gpu is not None and on_gpu else None
        return [] if clock_hz is None else [clock_hz]

    def mark_memory(self) -> None:
        """Record the worker's peak memory so far."""

        def step() -> None:
            self.peak_memory_bytes = self.session.peak_memory_bytes()

        if self.warmed is not None:
            self._try(step)

    def finish(self) -> None:
        """Add the pass to the tally, even if it was stopped early."""
        loaded = self.session.loaded
        if loaded is None:
            return
        self.tally.attestation = loaded.attestation
        self.tally.passes.append(
            Pass(
                import_s=loaded.import_s,
                load_s=loaded.load_s,
                first_inference_s=loaded.first_inference_s,
                warm_up=self.warmed,
                calls_per_round=self.calls if self.warmed else None,
                rounds=tuple(self.rounds),
                repeated=self.repeated,
                peak_memory_bytes=self.peak_memory_bytes,
            )
        )

    def _try(self, step: Callable[[], None]) -> None:
        """Run a step. The tally keeps the first failure, after which the session is no longer
        used."""
        if self.tally.failure is None:
            try:
                with self.allowance.not_for_failures():
                    step()
            except FailedRun as failure:
                self.tally.failure = failure


def _call_s(found: Round) -> float:
    """Return the longest call of any stream."""
    return max(max(calls) for calls in found.samples_s)
