"""Benchmark: candidates → measurements, each with its interval and its place among the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.candidates import NULL, Candidate, Subject, checkpoint_candidate, find_subject, line_up
from toolkit.capacity import measure_capacity
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.environment import usable_cores
from toolkit.errors import SettingError
from toolkit.fitness import judge, judge_speeds
from toolkit.interference import combined
from toolkit.passes import Interrupted, Passes, Tally, distinct_names
from toolkit.plan import Plan
from toolkit.progress import Progress, silent
from toolkit.ranking import rank
from toolkit.report.folder import refuse_to_mix, write_folder
from toolkit.results import start_results
from toolkit.runtimes import find_runtime
from toolkit.schema import Device, Interval, Measurement, Rank, Results, Settings, Status
from toolkit.settings import make_grid, session_settings
from toolkit.speeds import (
    call_outliers,
    latencies,
    median_of,
    repeat_ratio,
    speed_ratio,
    speeds_of,
)
from toolkit.targets import RemoteSession
from toolkit.timing import DISTINCT_BATCHES

EAGER = "eager"


class InterruptedBench(KeyboardInterrupt):
    """Ctrl-C while measuring. `results` has what was measured until then, marked `interrupted`."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted; the results hold what was measured until then")
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
    sweep: Mapping[str, Sequence[int]] | None = None,
    plan: Plan | None = None,
    baseline: str | None = None,
    out: Path | None = None,
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Results:
    """Measure throughput and latency of artifacts, the null runtime beside them.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.runtimes.RUNTIMES`; none means all that load the artifacts.
        checkpoint: The checkpoint folder, where it is not the one that the manifest names.
        data: Folder of IDX files whose test images are the inputs; None is the bundled MNIST.
        batch_size: Images a call.
        threads: Intra-op threads of each stream; None takes all usable cores.
        streams: Calls that run at the same time in each candidate.
        device: `cpu` or `cuda`.
        sweep: Values of `batch-size`, `threads` and `streams` to go through, every one with every
            other; it goes before the value given alone.
        plan: How long to measure; None is `Plan()`.
        baseline: Runtime that the others are compared with; None is `eager` where it takes part.
        out: Folder for `results.json`, `.md` and `.csv`, written after each pass; None writes none.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about warm-up and rounds.

    Returns:
        Results with one measurement a candidate and setting, raw samples included.

    Raises:
        ToolkitError: bad input.
        InterruptedBench: Ctrl-C after the first round; it carries the results so far.
    """
    single = session_settings(
        threads, device, streams=streams, batch_size=batch_size, timeout_s=timeout_s
    )
    grid = make_grid(single, batch_size=batch_size, sweep=sweep or {})
    subject = find_subject(paths, checkpoint=checkpoint, model=model)
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


def with_null(
    candidates: Sequence[Candidate], subject: Subject, settings: Settings
) -> list[Candidate]:
    """The candidates and, last, the null runtime, which shows the harness's own cost."""
    others = [each for each in candidates if each.runtime.name != NULL]
    return [*others, checkpoint_candidate(subject, NULL, settings)]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How candidates are measured; see `bench` for the fields."""

    plan: Plan
    baseline: str | None = None
    timeout_s: float
    progress: Progress = silent

    def check_baseline(self, candidates: Sequence[Candidate]) -> None:
        """Raise UnknownNameError or SettingError unless the baseline takes part."""
        if self.baseline is None:
            return
        name = find_runtime(self.baseline).name
        known = list(dict.fromkeys(each.runtime.name for each in candidates))
        if name not in known or name == NULL:
            others = ", ".join(each for each in known if each != NULL)
            raise SettingError(f"--baseline {name} does not take part; expected one of {others}")

    def with_capacity(
        self, results: Results, candidates: Sequence[Candidate], subject: Subject
    ) -> Results:
        """Results with the limits of this machine and the FLOPs of the model, measured now."""
        threads = min(_threads(candidates), usable_cores())
        self.progress("limits", 0, 1)
        capacity = measure_capacity(threads, checkpoint=subject.folder, model=subject.model)
        self.progress("limits", 1, 1, capacity.failure or "")
        return replace(results, limits=capacity.limits, flops_per_image=capacity.flops_per_image)

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
            done = replace(self._conclude(results, passes), interrupted=interrupted)
            if out is not None:
                write_folder(out, done)
            return done

        passes.after_pass = write
        try:
            passes.run(opened)
        except Interrupted as stop:
            raise InterruptedBench(write(interrupted=True)) from stop
        return write()

    def _conclude(self, results: Results, passes: Passes) -> Results:
        """What follows from the passes so far."""
        tallies = passes.tallies
        names = distinct_names(tallies)
        rows = tuple(
            _measurement(name, tally, self._baseline_of(tally, tallies), results)
            for name, tally in zip(names, tallies, strict=True)
        )
        threads = _threads([tally.candidate for tally in tallies])
        interference = combined(passes.interference)
        warnings = judge(results.environment, threads=threads, interference=interference)
        return replace(
            results,
            interference=tuple(passes.interference),
            warnings=(*warnings, *judge_speeds(rows)),
            measurements=rows,
            baseline=self._baseline_name(tallies),
            ranking=_ranking(rows),
        )

    def _baseline_name(self, tallies: Sequence[Tally]) -> str | None:
        """The runtime that the others are compared with; None where there is no other."""
        known = [name for tally in tallies if (name := tally.candidate.runtime.name) != NULL]
        if self.baseline is not None or len(set(known)) < 2:
            return self.baseline
        return EAGER if EAGER in known else known[0]

    def _baseline_of(self, tally: Tally, tallies: Sequence[Tally]) -> Tally | None:
        """What a candidate is compared with: the baseline with its settings and batch size."""
        name = self._baseline_name(tallies)
        for other in tallies:
            if other.candidate.runtime.name == name and _table(other) == _table(tally):
                return None if other is tally else other
        return None


def _table(tally: Tally) -> tuple[Settings, int]:
    return tally.candidate.settings, tally.batch_size


def _threads(candidates: Sequence[Candidate]) -> int:
    """The most threads that work at the same time."""
    return max(each.settings.threads * each.settings.streams for each in candidates)


def _measurement(name: str, tally: Tally, baseline: Tally | None, results: Results) -> Measurement:
    """The row; a failed one keeps its rounds and claims nothing."""
    candidate, passes, failure = tally.candidate, tally.passes, tally.failure
    artifact = candidate.source.artifact
    speed, real = tally.throughput(), candidate.runtime.name != NULL
    status, reason = _status(tally)
    compared = baseline is not None and real and speed is not None and not baseline.failure
    return Measurement(
        name=name,
        runtime=candidate.runtime.name,
        format=artifact.format,
        precision=artifact.precision,
        batch_size=tally.batch_size,
        settings=candidate.settings,
        status=status,
        reason=reason,
        images_per_s=speed,
        to_baseline=speed_ratio(passes, baseline.passes) if compared and baseline else None,
        repeat_ratio=repeat_ratio(passes) if speed and real else None,
        limit_share=_limit_share(speed, results) if real else None,
        latency_s=() if failure else latencies(passes),
        outliers=None if failure else call_outliers(passes),
        import_s=median_of([each.import_s for each in passes]),
        load_s=median_of([each.load_s for each in passes]),
        first_inference_s=median_of([each.first_inference_s for each in passes]),
        peak_memory_bytes=max(
            (each.peak_memory_bytes for each in passes if each.peak_memory_bytes), default=None
        ),
        artifact_size_bytes=artifact.size_bytes,
        artifact_sha256=artifact.sha256,
        session=tally.attestation,
        passes=tuple(passes),
        stderr_tail=failure.stderr_tail if failure else "",
    )


def _status(tally: Tally) -> tuple[Status, str | None]:
    if tally.failure is not None:
        return tally.failure.status, tally.failure.reason
    if tally.throughput() is None:
        rounds = sum(len(each.rounds) for each in tally.passes)
        return "timed_out", (
            f"{rounds} rounds in {len(tally.passes)} passes carry no interval; raise --max-time"
        )
    return "measured", None


def _limit_share(speed: Interval | None, results: Results) -> float | None:
    if speed is None or results.limits is None or results.flops_per_image is None:
        return None
    return speed.value * results.flops_per_image / results.limits.float32_flops_per_s


def _ranking(rows: Sequence[Measurement]) -> tuple[Rank, ...]:
    """Ranks among those that were measured alike: same batch size, same settings."""
    real = [row for row in rows if row.runtime != NULL and row.status == "measured"]
    ranks: list[Rank] = []
    for table in dict.fromkeys((row.settings, row.batch_size) for row in real):
        same = [row for row in real if (row.settings, row.batch_size) == table]
        ranks += rank({row.name: speeds_of(row.passes, row.batch_size) for row in same})
    return tuple(ranks)
