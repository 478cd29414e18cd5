"""Tuning: artifacts → the fastest configuration that passes verification.

Runtime, precision, threads and streams are searched by successive halving. A short heat measures
all candidates with one thread. The better half continues with each way to use all cores. Fast
enough candidates are compared with the checkpoint, the fastest first. The best that pass are
compared with each other and with eager PyTorch, in passes of interleaved rounds. The possible
winners are measured again, because the speed that selected a winner is an overestimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from toolkit.artifacts.calibration import refuse_overlap
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import SettingError, UnknownNameError
from toolkit.files import check_writable, write_json
from toolkit.machine.allocator import can_keep_memory
from toolkit.machine.environment import describe_environment, usable_cores
from toolkit.machine.fitness import PAGE_FAULTS, judge, judge_artifacts
from toolkit.machine.interference import combined
from toolkit.machine.threads import check_threads
from toolkit.measurement.conclusions import distinct_names
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.gates import GateSettings
from toolkit.progress import Progress, silent
from toolkit.schema import (
    EXPORTED_PRECISIONS,
    FRESH_HEAT,
    LAST_HEAT,
    TUNING_SCHEMA_VERSION,
    Constraints,
    MachineWarning,
    Precision,
    Settings,
    Tuning,
    to_json,
)
from toolkit.sessions.candidates import (
    EAGER,
    NULL,
    Candidate,
    Subject,
    checkpoint_candidate,
    find_subject,
    line_up,
)
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import ALL, find_runtime
from toolkit.settings import check_batch_size, check_positive
from toolkit.statistics.speeds import page_faults
from toolkit.timing import DISTINCT_BATCHES, Stopwatch
from toolkit.tuning.finals import choose, lead, may_be_taken
from toolkit.tuning.trials import Entry, how_sure, median_call_s, trial_of

_FIRST = Plan(min_time_s=0.6, min_rounds=6, passes=1)
_SECOND = Plan(min_time_s=0.8, min_rounds=8, passes=1)
_LAST = Plan(min_time_s=2.4, min_rounds=24, passes=6)
_FRESH = Plan(min_time_s=2.4, min_rounds=24, passes=8)
_LEAST_KEPT = 4  # of the first heat; at least this many continue
_FINALISTS = 4
_OF_EACH_PRECISION = 2
_HOPELESS = 0.5  # share of the fastest speed with one thread; more threads do not make up for less


def tune(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    constraints: Constraints | None = None,
    out: Path | None = None,
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Tuning:
    """Find the fastest configuration of a checkpoint's artifacts that passes verification.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.sessions.runtimes.RUNTIMES`; none means all that load the
            artifacts.
        precisions: Use only artifacts of these precisions; none means all.
        checkpoint: The checkpoint folder, if it is not the one named in the manifest.
        data: Folder whose test images are the inputs; None is the bundled MNIST.
        batch_size: Images per call.
        threads: Total number of threads that may work at the same time; None uses all usable cores.
        constraints: Limits that a recommendation must keep.
        out: File to write, usually `tuning.json`; None writes none.
        timeout_s: A worker that does not answer for this long is killed.
        model: The model factory to trust, if it is not part of the toolkit.
        progress: Receives the progress of every heat.

    Returns:
        All trials, how far each came, and the recommendation; None if there is none.

    Raises:
        ToolkitError: Bad input, or the float64 reference could not be computed.
    """
    watch = Stopwatch()
    wanted = constraints or Constraints()
    check_batch_size(batch_size)
    gates = GateSettings(max_flips=wanted.max_flips, max_accuracy_drop=wanted.max_accuracy_drop)
    for flag, value in (
        ("--max-latency", wanted.max_latency_s),
        ("--max-size", wanted.max_size_bytes),
    ):
        if value is not None:
            check_positive(flag, value, most=float("inf"))
    check_positive("--timeout", timeout_s)
    _refuse_devices(runtimes)
    if out is not None:
        check_writable(out)
    cores = usable_cores() if threads is None else check_threads(threads)
    subject = _only(find_subject(paths, checkpoint=checkpoint, model=model), precisions)
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    refuse_overlap([stored.record for stored in subject.artifacts], dataset)
    search = _Search(
        subject=subject,
        dataset=dataset,
        batch_size=batch_size,
        cores=cores,
        precisions=precisions,
        wanted=wanted,
        gates=gates,
        timeout_s=timeout_s,
        progress=progress,
    )
    found = search.run(runtimes)
    tuning = replace(found, wall_s=watch.elapsed_s())
    if out is not None:
        write_json(out, to_json(tuning))
    return tuning


def _refuse_devices(runtimes: Sequence[str]) -> None:
    """Raise SettingError if a named runtime does not run on the CPU, which the search uses."""
    for row in [find_runtime(name) for name in runtimes if name != ALL]:
        if "cpu" not in row.devices:
            raise SettingError(
                f"--runtime {row.name} runs on {', '.join(row.devices)} only, but tune searches "
                f"on the CPU; measure it with toolkit bench --device {row.devices[0]}"
            )


def _only(subject: Subject, precisions: Sequence[Precision]) -> Subject:
    """Return the subject with only the artifacts of these precisions."""
    for each in precisions:
        if each not in EXPORTED_PRECISIONS:
            raise UnknownNameError("precision", each, list(EXPORTED_PRECISIONS))
    if not precisions:
        return subject
    kept = tuple(each for each in subject.artifacts if each.record.precision in precisions)
    if not kept:
        known = ", ".join(sorted({each.record.precision for each in subject.artifacts}))
        raise SettingError(
            f"--precision {', '.join(precisions)}: the artifacts given are {known}; export them "
            "with toolkit export --precision"
        )
    return replace(subject, artifacts=kept)


@dataclass(kw_only=True)
class _Search:
    """One search over one subject; see `tune`."""

    subject: Subject
    dataset: Dataset
    batch_size: int
    cores: int
    precisions: Sequence[Precision]
    wanted: Constraints
    gates: GateSettings
    timeout_s: float
    progress: Progress
    entries: list[Entry] = field(default_factory=list)

    def run(self, runtimes: Sequence[str]) -> Tuning:
        """Run all heats."""
        environment = describe_environment()
        single = Settings(threads=1)
        first = [
            self._entry(candidate)
            for candidate in line_up(self.subject, runtimes, single)
            if candidate.runtime.name != NULL and self._wants(candidate)
        ]
        heats = [self._heat(1, first, _FIRST)]
        second = [
            self._entry(replace(entry.candidate, settings=settings))
            for entry in self._better_half(first)
            for settings in self._ways(entry)
        ]
        heats.append(self._heat(2, second, _SECOND))
        finalists = self._verified(second)
        plain = checkpoint_candidate(self.subject, EAGER, Settings(threads=self.cores))
        baseline = next((each for each in finalists if each.candidate == plain), None)
        if baseline is None:
            baseline = self._entry(plain)
            self._verify(baseline)
            last = [baseline, *finalists]
        else:
            last = finalists
        heats.append(self._heat(LAST_HEAT, last, _LAST))
        _compare(last, baseline)
        leading = lead(finalists, self.wanted)
        if len(leading) > 1:
            afresh = [*leading, *(each for each in [baseline] if each not in leading)]
            heats.append(self._heat(FRESH_HEAT, afresh, _FRESH))
            _compare(afresh, baseline)
        warnings = (
            *(_stopped(number) for number, each in enumerate(heats, start=1) if each.stopped),
            *judge_artifacts(environment, [each.candidate.source.artifact for each in finalists]),
            *judge(environment, threads=self.cores, interference=combined(heats[-1].interference)),
        )
        names = dict(
            zip(self.entries, distinct_names([each.tally for each in self.entries]), strict=True)
        )
        best, close, why = choose(leading, finalists, self.wanted)
        taken = len(may_be_taken(finalists, self.wanted))
        return Tuning(
            schema_version=TUNING_SCHEMA_VERSION,
            environment=environment,
            dataset=self.dataset.record,
            checkpoint_sha256=self.subject.checkpoint.sha256,
            constraints=self.wanted,
            wall_s=0.0,
            trials=tuple(trial_of(name, each) for each, name in names.items()),
            baseline=names[baseline],
            recommended=None if best is None else names[best],
            why=why,
            confidence=how_sure([names[each] for each in close], taken) if best else "",
            warnings=warnings,
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

    def _heat(self, number: int, entries: Sequence[Entry], plan: Plan) -> Passes:
        """Measure the entries again."""
        for entry in entries:
            entry.heat = number
            entry.tally = Tally(
                candidate=entry.candidate, batch_size=self.batch_size, logits=entry.logits
            )

        def progress(label: str, done: int, total: int, note: str = "", /) -> None:
            self.progress(f"heat {number} {label}", done, total, note)

        passes = Passes(
            tallies=[entry.tally for entry in entries],
            images=self.dataset.images[: self.batch_size * DISTINCT_BATCHES],
            plan=plan,
            timeout_s=self.timeout_s,
            progress=progress,
            together=True,
        )
        passes.run()
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
        each; with kept memory if the first heat saw memory returned to the system."""
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
            exact = entry.candidate.source.artifact.precision == "fp32"
            has_exact = any(each.candidate.source.artifact.precision == "fp32" for each in passed)
            room = len(passed) < _FINALISTS or (exact and not has_exact)
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
        with RemoteSession(
            entry.candidate, batch_size=self.batch_size, timeout_s=self.timeout_s
        ) as session:
            entry.report, logits = self._check.judge(session, self._basis)
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


def _compare(entries: Sequence[Entry], baseline: Entry) -> None:
    """Compare each entry with the baseline, from their last paired rounds."""
    for entry in entries:
        entry.to_baseline = entry.ratio_to(baseline)


def _stopped(number: int) -> MachineWarning:
    return MachineWarning(
        code="stopped",
        message=f"heat {number} took longer than its limit, so some candidates were not measured",
        action="tune fewer candidates, with `--runtime` and `--precision`",
    )
