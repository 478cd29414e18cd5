"""The search of a tuning, by successive halving: each stage measures fewer candidates for longer.

In: a subject, its data, the constraints. Out: all trials and the recommendation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from toolkit.data import Dataset
from toolkit.machine.allocator import can_keep_memory
from toolkit.machine.environment import describe_environment
from toolkit.machine.fitness import judge, judge_artifacts
from toolkit.machine.interference import combined
from toolkit.machine.speed_warnings import PAGE_FAULTS
from toolkit.measurement.conclusions import distinct_names
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import QUICK, Plan
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.gates import GateSettings
from toolkit.report.parity import row_name, status_text
from toolkit.report.progress import Progress, tell_finished
from toolkit.schema import (
    EAGER,
    EXACT_PRECISIONS,
    FINAL_STAGE,
    NO_OP,
    REMEASURED_STAGE,
    TUNING_SCHEMA_VERSION,
    Constraints,
    Environment,
    MachineWarning,
    Precision,
    Settings,
    Tuning,
)
from toolkit.sessions.candidates import (
    Candidate,
    Subject,
    checkpoint_candidate,
    find_candidates,
)
from toolkit.sessions.remote import RemoteSession
from toolkit.statistics.speeds import page_faults
from toolkit.timing import DISTINCT_BATCHES, Stopwatch
from toolkit.tuning.finals import choose, lead, may_be_taken
from toolkit.tuning.trials import Entry, describe_confidence, median_call_s, trial_of

_FIRST = Plan(min_time_s=0.6, min_rounds=6, passes=1)
_SECOND = Plan(min_time_s=0.8, min_rounds=8, passes=1)
_LAST = Plan(min_time_s=2.4, min_rounds=24, passes=6)
_FRESH = Plan(min_time_s=2.4, min_rounds=24, passes=8)
_LEAST_KEPT = 4  # of the first stage; at least this many continue
_FINALISTS = 4
_OF_EACH_PRECISION = 2
_HOPELESS = 0.5  # share of the fastest speed with one thread; more threads do not make up for less


@dataclass(kw_only=True)
class Search:
    """One search over one subject; see `toolkit.tuning.tune.tune` for the arguments.

    `entries` are all configurations tried so far.
    """

    subject: Subject
    dataset: Dataset
    batch_size: int
    cores: int
    precisions: Sequence[Precision]
    wanted: Constraints
    gates: GateSettings
    quick: bool = False
    timeout_s: float
    progress: Progress
    entries: list[Entry] = field(default_factory=list)

    def run(self, runtimes: Sequence[str]) -> Tuning:
        """Run all stages; `wall_s` stays 0."""
        environment = describe_environment()
        first, stages = self._in_one_thread(runtimes)
        second = [
            self._entry(replace(entry.candidate, settings=settings))
            for entry in self._better_half(first)
            for settings in self._ways(entry)
        ]
        stages.append(self._measure(2, second, _SECOND))
        finalists = self._verified(second)
        baseline, last = self._with_baseline(finalists)
        stages.append(self._measure(FINAL_STAGE, last, QUICK if self.quick else _LAST))
        _compare(last, baseline)
        leading = lead(finalists, self.wanted)
        if len(leading) > 1:
            afresh = [*leading, *(each for each in [baseline] if each not in leading)]
            plan = QUICK if self.quick else _FRESH
            stages.append(self._measure(REMEASURED_STAGE, afresh, plan))
            _compare(afresh, baseline)
        warnings = (
            *(_stopped(number) for number, each in enumerate(stages, start=1) if each.stopped),
            *judge_artifacts(environment, [each.candidate.source.artifact for each in finalists]),
            *judge(environment, threads=self.cores, interference=combined(stages[-1].interference)),
        )
        return self._tuning(environment, warnings, baseline, leading, finalists)

    def interrupted(self) -> Tuning:
        """Return what an interrupted search has found: the configurations that were measured or
        compared. There is no recommendation."""
        found = [each for each in self.entries if each.report or each.tally.throughput()]
        names = dict(zip(found, distinct_names([each.tally for each in found]), strict=True))
        return replace(
            self._record(describe_environment(), names),
            why=f"interrupted in stage {max((each.stage for each in self.entries), default=1)}",
            interrupted=True,
        )

    def _in_one_thread(self, runtimes: Sequence[str]) -> tuple[list[Entry], list[Passes]]:
        """Measure all candidates that may be recommended with one thread."""
        single = Settings(threads=1)
        first = [
            self._entry(candidate)
            for candidate in find_candidates(self.subject, runtimes, single)
            if candidate.runtime.name != NO_OP and self._wants(candidate)
        ]
        return first, [self._measure(1, first, _FIRST)]

    def _with_baseline(self, finalists: list[Entry]) -> tuple[Entry, list[Entry]]:
        """Return eager PyTorch on all cores, and the finalists with it."""
        plain = checkpoint_candidate(self.subject, EAGER, Settings(threads=self.cores))
        found = next((each for each in finalists if each.candidate == plain), None)
        if found is not None:
            return found, finalists
        baseline = self._entry(plain)
        self._verify(baseline)
        return baseline, [baseline, *finalists]

    def _tuning(
        self,
        environment: Environment,
        warnings: tuple[MachineWarning, ...],
        baseline: Entry,
        leading: Sequence[Entry],
        finalists: Sequence[Entry],
    ) -> Tuning:
        """Return the record with the recommendation."""
        tallies = [each.tally for each in self.entries]
        names = dict(zip(self.entries, distinct_names(tallies), strict=True))
        best, close, why = choose(leading, finalists, self.wanted)
        taken = len(may_be_taken(finalists, self.wanted))
        also = [names[each] for each in close]
        return replace(
            self._record(environment, names),
            baseline=names[baseline],
            recommended=None if best is None else names[best],
            why=why,
            confidence=describe_confidence(also, taken) if best else "",
            warnings=warnings,
        )

    def _record(self, environment: Environment, names: Mapping[Entry, str]) -> Tuning:
        """Return the trials of the named entries, without a conclusion."""
        return Tuning(
            schema_version=TUNING_SCHEMA_VERSION,
            environment=environment,
            dataset=self.dataset.record,
            checkpoint_sha256=self.subject.checkpoint.sha256,
            constraints=self.wanted,
            wall_s=0.0,
            trials=tuple(trial_of(name, each) for each, name in names.items()),
            baseline="",
            recommended=None,
            why="",
            confidence="",
            quick=self.quick,
        )

    def _wants(self, candidate: Candidate) -> bool:
        """Return whether it may be recommended at all, as far as this is known before it has
        run."""
        artifact = candidate.source.artifact
        limit = self.wanted.max_size_bytes
        return (not self.precisions or artifact.precision in self.precisions) and (
            limit is None or artifact.size_bytes <= limit
        )

    def _entry(self, candidate: Candidate) -> Entry:
        tally = Tally(candidate=candidate, batch_size=self.batch_size)
        entry = Entry(candidate=candidate, tally=tally)
        self.entries.append(entry)
        return entry

    def _measure(self, number: int, entries: Sequence[Entry], plan: Plan) -> Passes:
        """Measure the entries again."""
        before = [(entry, entry.stage, entry.tally) for entry in entries]
        for entry in entries:
            entry.stage = number
            entry.tally = Tally(
                candidate=entry.candidate, batch_size=self.batch_size, logits=entry.logits
            )

        def progress(label: str, done: int, total: int, note: str = "", /) -> None:
            self.progress(f"stage {number} {label}", done, total, note)

        passes = Passes(
            tallies=[entry.tally for entry in entries],
            images=self.dataset.images[: self.batch_size * DISTINCT_BATCHES],
            plan=plan,
            timeout_s=self.timeout_s,
            progress=progress,
            together=True,
        )
        try:
            passes.run()
        except KeyboardInterrupt:
            for entry, stage, tally in before:
                if entry.tally.throughput() is None:
                    entry.stage, entry.tally = stage, tally
            raise
        for name, entry in zip(distinct_names([e.tally for e in entries]), entries, strict=True):
            self.progress(f"stage {number} {name}", 1, 1, _speed_text(entry))
        return passes

    def _better_half(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the faster half without hopeless entries, and the two fastest of each precision,
        so that the gates have a choice."""
        order = sorted(entries, key=lambda each: -each.images_per_s)
        order = [each for each in order if each.images_per_s > 0]
        fastest = order[0].images_per_s if order else 0.0
        half = order[: max(_LEAST_KEPT, (len(order) + 1) // 2)]
        kept = [each for each in half if each.images_per_s >= _HOPELESS * fastest]
        for precision in dict.fromkeys(each.candidate.source.artifact.precision for each in order):
            own = [each for each in order if each.candidate.source.artifact.precision == precision]
            kept += [each for each in own[:_OF_EACH_PRECISION] if each not in kept]
        return kept

    def _ways(self, entry: Entry) -> list[Settings]:
        """Return the ways in which a candidate may use all cores: threads, or streams of one thread
        each; with kept memory if the first stage saw memory returned to the system."""
        faults = page_faults(entry.tally.passes) or 0
        keep = faults > PAGE_FAULTS and can_keep_memory()
        ways = [(self.cores, 1), (1, self.cores)] if self.cores > 1 else [(1, 1)]
        if entry.candidate.runtime.one_thread:
            ways = [(1, self.cores)]
        elif entry.candidate.runtime.one_stream:
            ways = [(self.cores, 1)]
        return [Settings(threads=each[0], streams=each[1], keep_memory=keep) for each in ways]

    def _verified(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the fastest entries that pass and keep the constraints, at most as many as there
        are places; and the fastest of them in float32, which is a common choice."""
        passed: list[Entry] = []
        for entry in sorted(entries, key=lambda each: -each.images_per_s):
            has_exact = any(_is_exact(each) for each in passed)
            room = len(passed) < _FINALISTS or (_is_exact(entry) and not has_exact)
            if room and entry.images_per_s > 0 and self._fits(entry):
                self._verify(entry)
                if entry.report is not None and entry.report.status == "passed":
                    passed.append(entry)
        return passed

    def _fits(self, entry: Entry) -> bool:
        """Return whether its calls are short enough."""
        limit, latency_s = self.wanted.max_latency_s, median_call_s(entry.tally)
        return limit is None or latency_s is None or latency_s <= limit

    def _verify(self, entry: Entry) -> None:
        """Verify all test images, with the settings of the measurement."""
        basis, watch = self._basis, Stopwatch()
        with RemoteSession(
            entry.candidate, batch_size=self.batch_size, timeout_s=self.timeout_s
        ) as session:
            entry.report, logits = self._check.judge(session, basis)
        outcome = status_text(entry.report.status, entry.report.reason)
        tell_finished(self.progress, row_name(entry.report), outcome, watch.elapsed_s())
        rows = np.arange(DISTINCT_BATCHES * self.batch_size) % len(self.dataset)
        if logits is not None and not entry.candidate.depends_on_the_batch:
            entry.logits = logits[rows]

    @cached_property
    def _check(self) -> ParityCheck:
        return ParityCheck(
            batch_size=self.batch_size,
            gates=self.gates,
            explain=False,
            timeout_s=self.timeout_s,
            progress=self.progress,
        )

    @cached_property
    def _basis(self) -> Basis:
        return self._check.basis(self.subject, self.dataset, Settings(threads=self.cores))


def _speed_text(entry: Entry) -> str:
    """Return the speed of an entry, or why it has none."""
    failure, speed = entry.tally.failure, entry.tally.throughput()
    if failure is not None:
        return status_text(failure.status, failure.reason)
    return "too few rounds" if speed is None else f"{speed.value:,.0f} images/s"


def _is_exact(entry: Entry) -> bool:
    return entry.candidate.source.artifact.precision in EXACT_PRECISIONS


def _compare(entries: Sequence[Entry], baseline: Entry) -> None:
    """Compare each entry with the baseline, from their last paired rounds."""
    for entry in entries:
        entry.to_baseline = entry.ratio_to(baseline)


def _stopped(number: int) -> MachineWarning:
    return MachineWarning(
        code="stopped",
        message=f"stage {number} took longer than its limit, so some candidates were not measured",
        action="tune fewer candidates, with `--runtime` and `--precision`",
    )
