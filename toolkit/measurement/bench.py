"""Benchmark: candidates → measurements with intervals and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import SettingError
from toolkit.machine.capacity import measure_capacity
from toolkit.machine.environment import usable_cores
from toolkit.measurement.conclusions import conclude
from toolkit.measurement.passes import Interrupted, Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.measurement.scenarios import (
    InterruptedScenarios,
    Scenarios,
    check_scenario,
    scenario_settings,
)
from toolkit.progress import Progress, silent
from toolkit.results import refuse_to_mix, start_results, write_folder
from toolkit.schema import Configuration, Device, Limits, Results, ScenarioName, Settings
from toolkit.sessions.candidates import (
    EAGER,
    NULL,
    Candidate,
    Subject,
    checkpoint_candidate,
    find_subject,
    line_up,
    subject_of,
)
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, find_runtime
from toolkit.settings import make_grid, session_settings
from toolkit.timing import DISTINCT_BATCHES


class InterruptedBench(KeyboardInterrupt):
    """Ctrl-C during a measurement. `results` has the measurements so far, marked `interrupted`."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted; the results contain the measurements so far")
        self.results = results


def bench(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    streams: int = 1,
    device: Device = "cpu",
    keep_memory: bool = False,
    tuned: Configuration | None = None,
    sweep: Mapping[str, Sequence[int]] | None = None,
    plan: Plan | None = None,
    baseline: str | None = None,
    scenario: ScenarioName | None = None,
    target_qps: float | None = None,
    latency_bound_s: float | None = None,
    out: Path | None = None,
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Results:
    """Measure throughput and latency of artifacts, with the null runtime for comparison.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.sessions.runtimes.RUNTIMES`; none means all that load the
            artifacts.
        checkpoint: The checkpoint folder, where it is not the one that the manifest names.
        data: Folder of IDX files whose test images are the inputs; None is the bundled MNIST.
        batch_size: Images a call.
        threads: Intra-op threads of each stream; None takes all usable cores.
        streams: Calls that run at the same time in each candidate.
        device: `cpu` or `cuda`.
        keep_memory: Memory that a runtime frees stays with its process.
        tuned: What `tune` recommended: its artifact, runtime, settings and batch size, with eager
            beside it, in place of all that is given alone; `paths` may be empty then.
        sweep: Values of `batch-size`, `threads` and `streams` to go through, every one with every
            other; it goes before the value given alone.
        plan: How long to measure; None is `Plan()`.
        baseline: Runtime that the others are compared with; None is `eager` where it takes part.
        scenario: One of MLPerf's: LoadGen then times and judges each candidate, one after another,
            in place of the rounds. The plan's durations hold for each; None is 10 s.
        target_qps: Of `server`: mean number of queries a second, as a Poisson process.
        latency_bound_s: Of `server`: what 99 % of the queries must keep.
        out: Folder for `results.json`, `.md` and `.csv`, written after each pass; None writes none.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about warm-up and rounds.

    Returns:
        Results with one measurement a candidate and setting, raw samples included; or one
        scenario report a candidate.

    Raises:
        ToolkitError: bad input.
        InterruptedBench: Ctrl-C after the first round; it carries the results so far.
    """
    if tuned is not None:
        batch_size, sweep, scenario = tuned.batch_size, None, None
        runtimes = list(dict.fromkeys([EAGER, tuned.runtime]))
        threads, streams = tuned.settings.threads, tuned.settings.streams
        device, keep_memory = tuned.settings.device, tuned.settings.keep_memory
    single = session_settings(
        threads,
        device,
        streams=streams,
        keep_memory=keep_memory,
        batch_size=batch_size,
        timeout_s=timeout_s,
    )
    unfit = {
        "--sweep": sweep,
        "--baseline": baseline,
        "--precision": plan.precision if plan else None,
    }
    check_scenario(
        scenario,
        target_qps=target_qps,
        latency_bound_s=latency_bound_s,
        streams=streams,
        unfit=[flag for flag, value in unfit.items() if value],
    )
    grid = make_grid(single, batch_size=batch_size, sweep=sweep or {})
    if tuned is None:
        subject = find_subject(paths, checkpoint=checkpoint, model=model)
    else:
        subject = tuned_subject(tuned, paths, checkpoint=checkpoint, model=model)
    if scenario is not None:
        wanted = scenario_settings(
            scenario, plan, target_qps=target_qps, latency_bound_s=latency_bound_s
        )
        load = Scenarios(
            wanted=wanted, batch_size=batch_size, timeout_s=timeout_s, progress=progress
        )
        return _under_load(load, line_up(subject, runtimes, single), subject, data=data, out=out)
    candidates = [
        candidate
        for settings in grid.settings
        for candidate in with_null(line_up(subject, runtimes, settings), subject, settings)
    ]
    work = Bench(plan=plan or Plan(), baseline=baseline, timeout_s=timeout_s, progress=progress)
    work.check_baseline(candidates)
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    if out is not None:
        refuse_to_mix(out)
    started = work.with_capacity(start_results(subject, dataset), candidates, subject)
    tallies = [
        Tally(candidate=candidate, batch_size=size)
        for candidate in candidates
        for size in grid.batch_sizes
    ]
    return work.measure(tallies, dataset, started, out=out)


def _under_load(
    load: Scenarios,
    candidates: Sequence[Candidate],
    subject: Subject,
    *,
    data: Path | None,
    out: Path | None,
) -> Results:
    """Run all candidates in an MLPerf scenario, on the test images of the data set."""
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    if out is not None:
        refuse_to_mix(out)
    try:
        return load.run(candidates, dataset.images[:], start_results(subject, dataset), out=out)
    except InterruptedScenarios as stop:
        raise InterruptedBench(stop.results) from stop


def tuned_subject(
    tuned: Configuration, paths: Sequence[Path], *, checkpoint: Path | None, model: str | None
) -> Subject:
    """Return the checkpoint with the tuned artifact, from `paths` or from its recorded location.

    Raises:
        SettingError: it is not there, or has changed.
    """
    place = Path(tuned.artifact_path)
    if tuned.format == CHECKPOINT_FORMAT:
        subject = subject_of(checkpoint or place, [], model=model)
        if subject.checkpoint.sha256 == tuned.artifact_sha256:
            return subject
    else:
        subject = find_subject(list(paths) or [place], checkpoint=checkpoint, model=model)
        for each in subject.artifacts:
            if each.record.sha256 == tuned.artifact_sha256:
                return replace(subject, artifacts=(each,))
    raise SettingError(
        f"--settings: {place} is not what was tuned (nothing given has sha256 "
        f"{tuned.artifact_sha256[:12]}); tune again"
    )


def with_null(
    candidates: Sequence[Candidate], subject: Subject, settings: Settings
) -> list[Candidate]:
    """The candidates and, last, the null runtime, which shows the harness's own cost."""
    others = [each for each in candidates if each.runtime.name != NULL]
    return [*others, checkpoint_candidate(subject, NULL, settings)]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The settings of a measurement; see `bench` for the fields."""

    plan: Plan
    baseline: str | None = None
    timeout_s: float
    progress: Progress = silent

    def check_baseline(self, candidates: Sequence[Candidate]) -> None:
        """Raise UnknownNameError or SettingError unless the baseline is measured."""
        if self.baseline is None:
            return
        name = find_runtime(self.baseline).name
        known = list(dict.fromkeys(each.runtime.name for each in candidates))
        if name not in known or name == NULL:
            others = ", ".join(each for each in known if each != NULL)
            raise SettingError(f"--baseline {name} is not measured; expected one of {others}")

    def with_capacity(
        self, results: Results, candidates: Sequence[Candidate], subject: Subject
    ) -> Results:
        """Results with the limits of this machine and the FLOPs of the model, measured now."""
        threads = min(max(each.settings.all_threads for each in candidates), usable_cores())
        self.progress("limits", 0, 1)
        capacity = measure_capacity(threads, checkpoint=subject.folder, model=subject.model)
        self.progress("limits", 1, 1, capacity.failure or "")
        return replace(
            results,
            limits=capacity.limits,
            flops_per_image=capacity.flops_per_image,
            limits_failure=capacity.failure,
        )

    def measure(
        self,
        tallies: Sequence[Tally],
        dataset: Dataset,
        results: Results,
        *,
        opened: Sequence[RemoteSession] = (),
        out: Path | None = None,
    ) -> Results:
        """Fill the tallies; returns `results` with what follows from them, and writes them to `out`
        after each pass.

        The sessions `opened`, one a tally, serve in the first pass.

        Raises:
            InterruptedBench: Ctrl-C after the first round.
        """
        largest = max(tally.batch_size for tally in tallies)
        passes = Passes(
            tallies=tallies,
            images=dataset.images[: largest * DISTINCT_BATCHES],
            plan=self.plan,
            timeout_s=self.timeout_s,
            progress=self.progress,
        )

        def write(*, interrupted: bool = False) -> Results:
            done = conclude(results, passes, baseline=self.baseline)
            done = replace(done, interrupted=interrupted)
            if out is not None:
                write_folder(out, done)
            return done

        passes.after_pass = write
        try:
            passes.run(opened)
        except Interrupted as stop:
            raise InterruptedBench(write(interrupted=True)) from stop
        measured = write()
        if not any((row.limit_share or 0) > 1 for row in measured.measurements):
            return measured
        results = replace(results, limits=_measured_again(results.limits))
        return write()


def _measured_again(limits: Limits | None) -> Limits | None:
    """The higher of what was measured before and now: faster than the limit is a convolution that
    saves operations, or a limit that was measured while something disturbed."""
    again = None if limits is None else measure_capacity(limits.threads).limits
    return limits if limits is None or again is None else limits.or_higher(again)
