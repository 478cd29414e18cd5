"""Benchmark: candidates → measurements with intervals and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.data import Dataset, load_dataset
from toolkit.errors import Interrupted, SettingError
from toolkit.files.locks import locked_folder
from toolkit.files.paths import Paths, StrPath, as_paths, optional_path
from toolkit.machine.capacity import measure_capacity
from toolkit.machine.environment import usable_cores
from toolkit.measurement.conclusions import conclude
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan, plan_of
from toolkit.report.labels import count_of
from toolkit.report.progress import Progress, silent
from toolkit.results import refuse_to_mix, start_results, words_after_interruption, write_folder
from toolkit.schema import Configuration, Limits, Results, Settings
from toolkit.sessions.candidates import (
    EAGER,
    NO_OP,
    Candidate,
    Subject,
    checkpoint_candidate,
    find_candidates,
    find_subject,
    subject_of,
)
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, find_runtime, runtime_names
from toolkit.settings import SessionOptions, make_grid
from toolkit.timing import DISTINCT_BATCHES


def bench(
    paths: Paths,
    *,
    runtimes: str | Sequence[str] = (),
    checkpoint: StrPath | None = None,
    data: StrPath | None = None,
    session: SessionOptions | None = None,
    tuned: Configuration | None = None,
    sweep: Mapping[str, Sequence[int]] | None = None,
    plan: Plan | None = None,
    quick: bool = False,
    baseline: str | None = None,
    out: StrPath | None = None,
    model: str | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Results:
    """Measure throughput and latency of artifacts, with the no-op runtime for comparison.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.sessions.runtimes`; none means all that load the
            artifacts.
        checkpoint: The checkpoint folder, if it is not the one named in the manifest.
        data: The data set whose test images are the inputs; None is the bundled MNIST.
        session: How sessions run; None uses the defaults of `SessionOptions`.
        tuned: A configuration recommended by `tune`. Its artifact, runtime, settings and batch size
            replace the other arguments, and eager PyTorch is measured for comparison. `paths` may
            then be empty.
        sweep: Values of `batch-size`, `threads` and `streams` to measure in every combination; they
            replace the values in `session`.
        plan: How long to measure; None is `Plan()`.
        quick: Measure for a shorter time, in fewer processes. Intervals are wider, and smaller
            differences stay undecided.
        baseline: Runtime to compare the others with; None is `eager` if it is measured.
        out: Folder for `results.json`, `.md` and `.csv`, written after each pass; None writes none.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust all programs among the artifacts, and the model factory.
        progress: Receives the progress of warm-up and rounds.

    Returns:
        Results with one measurement per candidate and setting, raw samples included.

    Raises:
        ToolkitError: Bad input.
        Interrupted: Ctrl-C after the first round; it carries the results so far.
    """
    paths, checkpoint = as_paths(paths), optional_path(checkpoint, "checkpoint")
    data, out = optional_path(data, "data"), optional_path(out, "out")
    runtimes = runtime_names(runtimes)
    options = session or SessionOptions()
    work = Bench(
        plan=plan_of(plan, quick=quick),
        baseline=None if baseline is None else find_runtime(baseline).name,
        timeout_s=options.timeout_s,
        progress=progress,
    )
    if tuned is not None:
        options, sweep = _options_of(tuned, options), None
        runtimes = list(dict.fromkeys([EAGER, tuned.runtime]))
    grid = make_grid(options.settings, batch_size=options.batch_size, sweep=sweep or {})
    if tuned is None:
        subject = find_subject(paths, checkpoint=checkpoint, model=model, trust=trust)
    else:
        subject = tuned_subject(tuned, paths, checkpoint=checkpoint, model=model, trust=trust)
    candidates = [
        candidate
        for settings in grid.settings
        for candidate in with_no_op(find_candidates(subject, runtimes, settings), subject, settings)
    ]
    work.check_baseline(candidates)
    dataset = load_dataset("test", data, checkpoint=subject.checkpoint, progress=progress)
    tallies = [
        Tally(candidate=candidate, batch_size=size)
        for candidate in candidates
        for size in grid.batch_sizes
    ]
    with locked_folder(out) if out is not None else nullcontext():
        if out is not None:
            refuse_to_mix(out)
        started = replace(start_results(subject, dataset), quick=quick)
        started = work.with_capacity(started, candidates, subject)
        return work.measure(tallies, dataset, started, out=out)


def _options_of(tuned: Configuration, options: SessionOptions) -> SessionOptions:
    """Return the options with the tuned values instead of the given ones."""
    return replace(
        options,
        batch_size=tuned.batch_size,
        threads=tuned.settings.threads,
        streams=tuned.settings.streams,
        device=tuned.settings.device,
        keep_memory=tuned.settings.keep_memory,
    )


def tuned_subject(
    tuned: Configuration,
    paths: Sequence[Path],
    *,
    checkpoint: Path | None,
    model: str | None,
    trust: bool = False,
) -> Subject:
    """Return the checkpoint with the tuned artifact, from `paths` or from its recorded location.

    Raises:
        SettingError: The artifact is missing or has changed.
    """
    place = Path(tuned.artifact_path)
    if tuned.format == CHECKPOINT_FORMAT:
        subject = subject_of(checkpoint or place, [], model=model, trust=trust)
        if subject.checkpoint.sha256 == tuned.artifact_sha256:
            return subject
    else:
        given = list(paths) or [place]
        subject = find_subject(given, checkpoint=checkpoint, model=model, trust=trust)
        for each in subject.artifacts:
            if each.record.sha256 == tuned.artifact_sha256:
                return replace(subject, artifacts=(each,))
    raise SettingError(
        f"--settings: {place} is not the tuned artifact (nothing given has sha256 "
        f"{tuned.artifact_sha256[:12]}); run toolkit tune again"
    )


def with_no_op(
    candidates: Sequence[Candidate], subject: Subject, settings: Settings
) -> list[Candidate]:
    """Return the candidates, followed by the no-op runtime, which shows the overhead of the
    harness."""
    others = [each for each in candidates if each.runtime.name != NO_OP]
    return [*others, checkpoint_candidate(subject, NO_OP, settings)]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The settings of a measurement; see `bench` for the fields."""

    plan: Plan
    baseline: str | None = None
    timeout_s: float
    progress: Progress = silent

    def check_baseline(self, candidates: Sequence[Candidate]) -> None:
        """Raise SettingError unless the baseline is measured."""
        name = self.baseline
        if name is None:
            return
        known = list(dict.fromkeys(each.runtime.name for each in candidates))
        if name not in known or name == NO_OP:
            others = ", ".join(each for each in known if each != NO_OP)
            raise SettingError(f"--baseline {name} is not measured; expected one of {others}")

    def with_capacity(
        self, results: Results, candidates: Sequence[Candidate], subject: Subject
    ) -> Results:
        """Return results with the limits of this machine and the FLOPs of the model, measured
        now."""
        threads = min(max(each.settings.all_threads for each in candidates), usable_cores())
        self.progress("limits", 0, 1)
        capacity = measure_capacity(
            threads,
            checkpoint=subject.folder,
            model=subject.model,
            gpu=any(each.settings.device == "cuda" for each in candidates),
        )
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
        """Fill the tallies, and return `results` with the rows that follow from them. Write them to
        `out` after each pass.

        The first pass uses the sessions `opened`, one per tally.

        Raises:
            Interrupted: Ctrl-C after the first round.
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

        try:
            for _ in passes.each(opened):
                measured = write()
        except KeyboardInterrupt as stop:
            if not passes.has_rounds:
                raise
            rows = count_of(sum(bool(each.passes) for each in tallies), "row")
            finished = f"{rows} measured for a part of the time"
            advice = words_after_interruption(finished, out, "starts with the first pass")
            raise Interrupted(write(interrupted=True), advice) from stop
        if not any((row.limit_share or 0) > 1 for row in measured.measurements):
            return measured
        results = replace(results, limits=_measured_again(results.limits))
        return write()


def _measured_again(limits: Limits | None) -> Limits | None:
    """Return the higher of the earlier and the current limit. Something faster than the limit is a
    convolution that saves operations, or the limit was measured during a disturbance."""
    if limits is None:
        return None
    again = measure_capacity(limits.threads, gpu=limits.gpu is not None).limits
    return limits if again is None else limits.or_higher(again)
