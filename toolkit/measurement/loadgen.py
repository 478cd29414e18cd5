"""Load generation: candidates, one after another, under MLPerf LoadGen → scenario reports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from toolkit.data import load_dataset
from toolkit.errors import FailedRun, Interrupted, SettingError
from toolkit.files.locks import locked_folder
from toolkit.files.paths import Paths, StrPath, as_paths, optional_path
from toolkit.machine.fitness import judge
from toolkit.machine.interference import LoadWatch, combined
from toolkit.measurement.conclusions import distinct_names
from toolkit.measurement.passes import Tally
from toolkit.measurement.plan import check_times
from toolkit.report.labels import count_of
from toolkit.report.progress import Progress, silent
from toolkit.results import refuse_to_mix, start_results, words_after_interruption, write_folder
from toolkit.schema import (
    Interference,
    Results,
    ScenarioName,
    ScenarioReport,
    ScenarioSettings,
)
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.loadgen import require_loadgen
from toolkit.sessions.loadgen_log import LoadResult
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import runtime_names
from toolkit.settings import SessionOptions, check_positive

DEFAULT_TIME_S = 10.0  # an acceptable wait; MLPerf requires 600 s
_SUBMISSION_S = 600.0  # MLPerf inference rules, "Scenarios": the minimum duration, for all of them
_SUBMISSION_SAMPLES = 24_576  # the same, offline
_MOST_IMAGES = 1024  # number of distinct images in the queries, as for MLPerf's ResNet-50
_MOST_BYTES = 256 * 1024**2


def loadgen(
    paths: Paths,
    *,
    scenario: ScenarioName,
    runtimes: str | Sequence[str] = (),
    checkpoint: StrPath | None = None,
    data: StrPath | None = None,
    session: SessionOptions | None = None,
    min_time_s: float = DEFAULT_TIME_S,
    max_time_s: float = 300.0,
    target_qps: float | None = None,
    latency_bound_s: float | None = None,
    out: StrPath | None = None,
    model: str | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Results:
    """Let MLPerf LoadGen time and judge artifacts, one after another, by its own rules.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        scenario: `offline`, `single-stream` or `server`.
        runtimes: Names from `toolkit.sessions.runtimes.RUNTIMES`; none means all that load the
            artifacts.
        checkpoint: The checkpoint folder; None is the one that the manifest names.
        data: The data set whose test images queries ask for; None is the bundled MNIST.
        session: Options of all sessions; None is the defaults of `SessionOptions`.
        min_time_s: Minimum duration of each run, in seconds; MLPerf submissions need 600.
        max_time_s: Maximum duration of each run, in seconds.
        target_qps: For `server`: mean number of queries per second, as a Poisson process.
        latency_bound_s: For `server`: latency limit for 99 % of the queries.
        out: Folder for `results.json`, `.md` and `.csv`, written after each candidate.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust all programs among the artifacts, and the model factory.
        progress: Receives the progress of each candidate.

    Returns:
        Results with one scenario report per candidate.

    Raises:
        ToolkitError: Bad input.
        Interrupted: Ctrl-C after the first report; it carries the results so far.
    """
    paths, checkpoint = as_paths(paths), optional_path(checkpoint, "checkpoint")
    data, out = optional_path(data, "data"), optional_path(out, "out")
    runtimes = runtime_names(runtimes)
    options = session or SessionOptions()
    check_scenario(
        scenario,
        target_qps=target_qps,
        latency_bound_s=latency_bound_s,
        streams=options.streams,
    )
    check_times(min_time_s, max_time_s)
    subject = find_subject(paths, checkpoint=checkpoint, model=model, trust=trust)
    candidates = find_candidates(subject, runtimes, options.settings)
    dataset = load_dataset("test", data, checkpoint=subject.checkpoint, progress=progress)
    wanted = ScenarioSettings(
        scenario=scenario,
        min_duration_s=min_time_s,
        max_duration_s=max_time_s,
        target_qps=target_qps,
        latency_bound_s=latency_bound_s,
    )
    load = Scenarios(
        wanted=wanted,
        batch_size=options.batch_size,
        timeout_s=options.timeout_s,
        progress=progress,
    )
    with locked_folder(out) if out is not None else nullcontext():
        if out is not None:
            refuse_to_mix(out)
        return load.run(candidates, dataset.images[:], start_results(subject, dataset), out=out)


def check_scenario(
    scenario: ScenarioName,
    *,
    target_qps: float | None,
    latency_bound_s: float | None,
    streams: int,
) -> None:
    """Check the options of a scenario.

    Raises:
        SettingError: An unknown scenario, a missing or unsuitable option, or a value out of range.
        NotInstalled: LoadGen is missing.
    """
    given = {"--target-qps": target_qps, "--latency-bound": latency_bound_s}
    if scenario not in get_args(ScenarioName):
        known = ", ".join(get_args(ScenarioName))
        raise SettingError(f"--scenario {scenario}: expected one of {known}")
    for flag, value in given.items():
        if scenario == "server" and value is None:
            raise SettingError(f"--scenario server needs {flag}, such as --target-qps 500")
        if scenario != "server" and value is not None:
            raise SettingError(
                f"{flag} belongs to --scenario server; add that option, or remove {flag}"
            )
        if value is not None:
            check_positive(flag, value)
    if scenario == "single-stream" and streams > 1:
        raise SettingError(
            f"--streams {streams}: --scenario single-stream has one query at a "
            "time; remove --streams"
        )
    require_loadgen()


@dataclass(kw_only=True)
class Scenarios:
    """Runs the candidates, each in a fresh worker.

    Attributes:
        wanted: The settings of LoadGen.
        batch_size: Maximum number of samples per call.
        timeout_s: A worker that is silent for longer than this plus the duration of the load is
            killed.
    """

    wanted: ScenarioSettings
    batch_size: int
    timeout_s: float
    progress: Progress = silent
    interference: list[Interference] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.wanted.scenario == "single-stream":
            self.batch_size = 1

    def run(
        self,
        candidates: Sequence[Candidate],
        images: NDArray[np.uint8],
        results: Results,
        *,
        out: Path | None = None,
    ) -> Results:
        """Return `results` with one row per candidate; `images` are raw `[N,C,H,W]`. Write the
        results to `out` after each row.

        Raises:
            Interrupted: Ctrl-C after the first row.
        """
        tallies = [Tally(candidate=each, batch_size=self.batch_size) for each in candidates]
        label, total = self.wanted.scenario, len(candidates)
        self.progress(label, 0, total)
        try:
            for done, name in enumerate(distinct_names(tallies), start=1):
                row = self.report(name, candidates[done - 1], images)
                results = self._concluded(replace(results, scenarios=(*results.scenarios, row)))
                self.progress(label, done, total, candidates[done - 1].label)
                if out is not None:
                    write_folder(out, results)
        except KeyboardInterrupt as stop:
            if not results.scenarios:
                raise
            results = replace(results, interrupted=True)
            if out is not None:
                write_folder(out, results)
            finished = f"{len(results.scenarios)} of {count_of(total, 'row')} finished"
            advice = words_after_interruption(finished, out, "starts with the first row")
            raise Interrupted(results, advice) from stop
        return results

    def report(self, name: str, candidate: Candidate, images: NDArray[np.uint8]) -> ScenarioReport:
        """Return one candidate's row; a failure gets a row too."""
        found: LoadResult | None = None
        failure: FailedRun | None = None
        watch = LoadWatch()
        with RemoteSession(
            candidate, batch_size=self.batch_size, timeout_s=self.timeout_s
        ) as session:
            try:
                found = session.loadgen(
                    library_of(images), batch_size=self.batch_size, wanted=self.wanted
                )
            except FailedRun as error:
                failure = error
            loaded = session.loaded
            self.interference.append(watch.interference())  # while the worker is alive
        return replace(
            self._row(name, candidate, found),
            status=failure.status if failure else "measured",
            reason=failure.reason if failure else None,
            session=loaded.attestation if loaded else None,
            stderr_tail=failure.stderr_tail if failure else "",
        )

    def _row(self, name: str, candidate: Candidate, found: LoadResult | None) -> ScenarioReport:
        """Return the settings and, if LoadGen finished, its results."""
        artifact, wanted = candidate.source.artifact, self.wanted
        return ScenarioReport(
            name=name,
            runtime=candidate.runtime.name,
            format=artifact.format,
            precision=artifact.precision,
            embeds_preprocessing=artifact.embeds_preprocessing,
            scenario=wanted.scenario,
            batch_size=self.batch_size,
            settings=candidate.settings,
            status="measured",
            reason=None,
            valid=found.valid if found else None,
            violations=found.violations if found else (),
            queries=found.queries if found else None,
            samples=found.samples if found else None,
            checked=found.checked if found else None,
            duration_s=found.duration_s if found else None,
            min_duration_s=wanted.min_duration_s,
            submission_length=found is not None and is_submission_length(wanted, found),
            samples_per_s=found.samples_per_s if found else None,
            latency_s=found.latency_s if found else (),
            mlperf_latency_s=found.mlperf_latency_s if found else None,
            target_qps=wanted.target_qps,
            latency_bound_s=wanted.latency_bound_s,
            loadgen=found.version if found else None,
            artifact_sha256=artifact.sha256,
            session=None,
            stderr_tail="",
        )

    def _concluded(self, results: Results) -> Results:
        """Add the load from others, and warnings about it and the machine."""
        threads = max(row.settings.all_threads for row in results.scenarios)
        others = combined(self.interference)
        return replace(
            results,
            interference=tuple(self.interference),
            warnings=judge(results.environment, threads=threads, interference=others),
        )


def library_of(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images of the queries: the first 1024, or as many as fit into 256 MiB in
    float32."""
    image_bytes = 4 * int(np.prod(images.shape[1:]))
    return images[: max(1, min(_MOST_IMAGES, _MOST_BYTES // image_bytes))]


def is_submission_length(wanted: ScenarioSettings, found: LoadResult) -> bool:
    """Return whether MLPerf's minimum for submissions was requested and reached."""
    enough = wanted.scenario != "offline" or found.samples >= _SUBMISSION_SAMPLES
    lasted = found.valid or found.duration_s >= _SUBMISSION_S
    return wanted.min_duration_s >= _SUBMISSION_S and lasted and enough
