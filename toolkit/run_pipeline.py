"""The whole pipeline: train → export → verify → bench → one results file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.artifacts.calibration import CalibrationSettings, refuse_overlap
from toolkit.artifacts.export import choose_artifacts, export
from toolkit.artifacts.exported import Export
from toolkit.artifacts.manifest import MANIFEST
from toolkit.checkpoints.storage import RECORD, read_checkpoint
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import Interrupted, OutputError, SettingError
from toolkit.files.locks import locked_folder
from toolkit.files.paths import StrPath, optional_path
from toolkit.measurement.bench import Bench, with_no_op
from toolkit.measurement.passes import Tally
from toolkit.measurement.plan import plan_of
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.gates import GateSettings
from toolkit.parity.pictures import pictures_of
from toolkit.parity.verdict import not_run
from toolkit.report.parity import row_name, status_text
from toolkit.report.progress import Progress, silent, tell_finished
from toolkit.results import RESULTS, read_results, start_results, write_folder, write_results
from toolkit.schema import Checkpoint, ParityReport, Results, Settings
from toolkit.sessions.candidates import (
    EAGER,
    NO_OP,
    Candidate,
    Subject,
    checkpoint_candidate,
    choose_runtimes,
    find_candidates,
    subject_of,
)
from toolkit.sessions.remote import open_sessions
from toolkit.sessions.runtimes import ALL, CHECKPOINT_FORMAT, find_runtime, runtime_names
from toolkit.settings import SessionOptions
from toolkit.timing import DISTINCT_BATCHES, Stopwatch, now
from toolkit.training.train import train

if TYPE_CHECKING:
    import pandas

ARTIFACTS = "artifacts"
NO_RUNTIME = "-"  # of a row that no runtime would have loaded
_QUICK_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """Results and the folder that holds them (`results.json`, `.md`, `.csv`)."""

    folder: Path
    results: Results

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows of the results; see `Results.to_frame`."""
        return self.results.to_frame()

    def _repr_html_(self) -> str:
        return self.results._repr_html_()

    def __str__(self) -> str:
        return str(self.results)


def run(
    *,
    checkpoint: StrPath | None = None,
    quick: bool = False,
    out: StrPath | None = None,
    formats: str | Sequence[str] = (),
    precisions: str | Sequence[str] = ("fp32",),
    calibration_images: int = 500,
    calibration_seed: int = 0,
    embed_preprocessing: bool = False,
    runtimes: str | Sequence[str] = (),
    data: StrPath | None = None,
    session: SessionOptions | None = None,
    gates: GateSettings | None = None,
    model: str | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Run:
    """Train (or use `checkpoint`), export, verify, bench, and write the results.

    Each candidate is verified and measured in the same worker, so the verified session is the one
    that is measured. That worker runs the first pass of rounds. Fresh workers run the other passes
    and must give the same logits. `results.json` is written after each row and pass. If a format
    cannot be exported, it gets a row, and the others continue.

    Args:
        checkpoint: A checkpoint folder to use instead of training.
        quick: Train one epoch on 10,000 images and measure for a shorter time.
        out: Folder to write; None is `runs/<time>`.
        formats: Formats to export, or `all`; none means TorchScript, ONNX and pt2.
        precisions: Precisions to export; each format uses those that it supports.
        calibration_images: Number of training images used to calibrate int8 ranges.
        calibration_seed: Seed that selects the calibration images.
        embed_preprocessing: Put scaling and normalisation into the graphs; see `export`.
        runtimes: Runtimes to compare, or `all`; none means those that load the artifacts, except
            slow and specialised ones.
        data: The data set; None is the bundled MNIST.
        session: Options of all sessions; training uses the same number of threads. None is the
            defaults of `SessionOptions`. Training uses CUDA if available.
        gates: Limits that a row must keep to pass; None uses the defaults of each precision.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust any model factory that the checkpoint names.
        progress: Receives the progress of every step.

    Raises:
        ToolkitError: Bad input, a model factory that is not trusted, or a step that could not be
            done at all.
    """
    checkpoint, data = optional_path(checkpoint, "checkpoint"), optional_path(data, "data")
    out, runtimes = optional_path(out, "out"), runtime_names(runtimes)
    options = session or SessionOptions()
    settings, timeout_s, threads = options.settings, options.timeout_s, options.threads
    gates = gates or GateSettings()
    check = ParityCheck(
        batch_size=options.batch_size, gates=gates, timeout_s=timeout_s, progress=progress
    )
    bench = Bench(plan=plan_of(None, quick=quick), timeout_s=timeout_s, progress=progress)
    calibration = CalibrationSettings(images=calibration_images, seed=calibration_seed, data=data)
    _check_names(formats, precisions, runtimes)
    record = None if checkpoint is None else read_checkpoint(checkpoint)
    dataset = load_dataset("test", data, checkpoint=record, progress=progress)
    folder = out or Path("runs") / now().strftime("%Y-%m-%dT%H-%M-%S")
    trained = folder / f"{dataset.record.name}-cnn"
    _refuse_to_mix(folder, trained if checkpoint is None else None)
    with locked_folder(folder):
        _refuse_to_mix(folder, trained if checkpoint is None else None)  # nobody else's, either
        if checkpoint is None or record is None:
            checkpoint = trained
            record = _train(trained, quick=quick, data=data, threads=threads, progress=progress)
            check_fits(dataset, record)
        try:
            exported = export(
                checkpoint,
                out=folder / ARTIFACTS,
                formats=formats,
                precisions=precisions,
                calibration=calibration,
                embed_preprocessing=embed_preprocessing,
                model=model,
                trust=trust,
                record=record,
                progress=progress,
            )
        except Interrupted as stop:  # there are no results yet, and the next run takes no exports
            raise KeyboardInterrupt from stop
        refuse_overlap(exported.artifacts, dataset)
        subject = subject_of(checkpoint, exported.stored, model=model, trust=trust, record=record)
        candidates = _candidates(subject, exported, runtimes, settings)
        lost = _lost_rows(exported, runtimes, settings, dataset, gates)
        results = replace(start_results(subject, dataset), parity=lost, quick=quick)
        write_results(folder / RESULTS, results)
        basis = check.basis(subject, dataset, settings)
        with _kept_when_interrupted(folder):
            results = _verify_and_measure(candidates, basis, results, check, bench, folder)
        return Run(folder=folder, results=results)


def _verify_and_measure(
    candidates: Sequence[Candidate],
    basis: Basis,
    results: Results,
    check: ParityCheck,
    bench: Bench,
    folder: Path,
) -> Results:
    """Verify each candidate except no-op, then measure all of them in the same sessions."""
    dataset, size = basis.dataset, check.batch_size
    tallies = [Tally(candidate=candidate, batch_size=size) for candidate in candidates]
    rows = np.arange(DISTINCT_BATCHES * size) % len(dataset)
    with open_sessions(candidates, batch_size=size, timeout_s=check.timeout_s) as sessions:
        for each, tally in zip(sessions[:-1], tallies, strict=False):
            watch = Stopwatch()
            report, logits = check.judge(each, basis)
            outcome = status_text(report.status, report.reason)
            tell_finished(check.progress, row_name(report), outcome, watch.elapsed_s())
            same = len(rows) <= len(dataset) or not each.candidate.depends_on_the_batch
            tally.logits = None if logits is None or not same else logits[rows]
            reports = (*results.parity, report)
            results = replace(results, parity=reports, pictures=pictures_of(reports, dataset))
            write_results(folder / RESULTS, results)
        results = bench.with_capacity(results, candidates, basis.subject)
        return bench.measure(tallies, dataset, results, opened=sessions, out=folder)


@contextmanager
def _kept_when_interrupted(folder: Path) -> Iterator[None]:
    """On Ctrl-C before the rounds, mark the results in `folder` as interrupted, and continue as
    after an interruption during the rounds."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stop:
        results = replace(read_results(folder), interrupted=True)
        write_folder(folder, results)
        advice = f"the rows so far are kept in {folder / RESULTS}; give the next run another --out"
        raise Interrupted(results, advice) from stop


def _check_names(
    formats: str | Sequence[str], precisions: str | Sequence[str], runtimes: Sequence[str]
) -> None:
    """Check all names before training starts."""
    written = [(row.name, precision) for row, precision in choose_artifacts(formats, precisions)]
    for row in [find_runtime(name) for name in runtimes if name != ALL]:
        if CHECKPOINT_FORMAT not in row.formats and not any(row.loads(*each) for each in written):
            given = ", ".join(" ".join(each) for each in written)
            raise SettingError(
                f"runtime {row.name} loads {row.what_it_loads()}, but --format and --precision "
                f"name {given}; add --format {row.formats[0]}"
            )
    if set(runtimes) == {NO_OP}:
        raise SettingError("--runtime no-op computes nothing; name one more runtime to verify")


def _refuse_to_mix(folder: Path, trained: Path | None) -> None:
    """Raise OutputError if the folder contains files of another run."""
    found = [path for path in (folder / RESULTS, folder / ARTIFACTS / MANIFEST) if path.exists()]
    advice = "choose another folder with --out"
    if trained is not None and (trained / RECORD).exists():
        found.append(trained)
        advice += f", and use the existing weights with --checkpoint {trained}"
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise OutputError(f"{folder} already holds {names}; {advice}")


def _train(
    out: Path, *, quick: bool, data: Path | None, threads: int | None, progress: Progress
) -> Checkpoint:
    epochs, limit = (1.0, _QUICK_IMAGES) if quick else (None, None)
    return train(out=out, data=data, threads=threads, epochs=epochs, limit=limit, progress=progress)


def _candidates(
    subject: Subject, exported: Export, runtimes: Sequence[str], settings: Settings
) -> list[Candidate]:
    """Return the candidates to compare, followed by no-op. If no named runtime has an artifact
    left, the checkpoint itself is the only candidate."""
    named = [name for name in runtimes if name != NO_OP]
    lost = [item.format for item in exported.failures]
    found = find_candidates(subject, named, settings, lost=lost, own=True)
    found = found or [checkpoint_candidate(subject, EAGER, settings)]
    return with_no_op(found, subject, settings)


def _lost_rows(
    exported: Export,
    runtimes: Sequence[str],
    settings: Settings,
    dataset: Dataset,
    gates: GateSettings,
) -> tuple[ParityReport, ...]:
    """Return the rows of formats that could not be exported: one for each chosen runtime that would
    load the format, or one without a runtime if there is none."""
    lost = [(item.format, item.precision) for item in exported.failures]
    chosen = choose_runtimes(runtimes, lost, settings.device)
    return tuple(
        not_run(
            item.failure,
            runtime=name,
            format=item.format,
            precision=item.precision,
            artifact_sha256=None,
            expected=len(dataset),
            gates=gates.of(item.precision),
            embeds_preprocessing=item.embeds_preprocessing,
        )
        for item in exported.failures
        for name in [row.name for row in chosen if row.loads(item.format, item.precision)]
        or [NO_RUNTIME]
    )
