"""The whole way: train → export → verify → bench, and one results file at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.artifacts import export
from toolkit.benchmark import RoundPlan, with_null
from toolkit.candidates import NULL, find_subject, line_up
from toolkit.data import check_fits, load_dataset
from toolkit.errors import OutputError, SettingError
from toolkit.files import make_folder, write_atomically
from toolkit.formats import find_format
from toolkit.progress import Progress, silent
from toolkit.report.csv import render_csv
from toolkit.report.markdown import render_markdown
from toolkit.results import RESULTS, start_results, write_results
from toolkit.runtimes import find_runtime
from toolkit.schema import Device, Results
from toolkit.settings import session_settings
from toolkit.targets import open_sessions
from toolkit.timing import now
from toolkit.training import train
from toolkit.verification import ParityCheck

_QUICK_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """The results and the folder that holds them (`results.json`, `.md`, `.csv`)."""

    folder: Path
    results: Results


def run(
    *,
    checkpoint: Path | None = None,
    quick: bool = False,
    out: Path | None = None,
    formats: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    device: Device = "cpu",
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Run:
    """Train (or take `checkpoint`), export, verify, bench, and write the results.

    Each candidate is verified and measured in the same worker, so that what is verified is what
    is measured. `results.json` is written after each row.

    Args:
        checkpoint: A checkpoint folder to use in place of training.
        quick: Train one epoch on 10,000 images and time short.
        out: Folder to write; None is `runs/<time>`.
        formats: Formats to export; none means all.
        runtimes: Runtimes to compare; none means all that load the artifacts.
        data: Folder of IDX files; None is the bundled MNIST.
        batch_size: Images a call when verifying and timing.
        threads: Threads to train with and of each session; None takes all usable cores.
        device: Where sessions run. Training takes CUDA where there is one.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about every step.

    Raises:
        ToolkitError: bad input, or a step that could not be done at all.
    """
    settings = session_settings(threads, device, batch_size=batch_size, timeout_s=timeout_s)
    check = ParityCheck(batch_size=batch_size, timeout_s=timeout_s, progress=progress)
    rounds, round_s = (5, 0.1) if quick else (20, 0.2)
    plan = RoundPlan(batch_size=batch_size, rounds=rounds, round_s=round_s, progress=progress)
    for name in formats:
        find_format(name)
    for name in runtimes:
        find_runtime(name)
    if set(runtimes) == {NULL}:
        raise SettingError("--runtime null computes nothing; name one more runtime to verify")
    folder = out or Path("runs") / now().strftime("%Y-%m-%dT%H-%M-%S")
    if (folder / RESULTS).exists():
        raise OutputError(f"{folder} already holds {RESULTS}; choose another folder with --out")
    make_folder(folder)
    dataset = load_dataset("test", data)
    if checkpoint is None:
        checkpoint = folder / f"{dataset.record.name}-cnn"
        train(
            out=checkpoint,
            data=data,
            threads=threads,
            epochs=1 if quick else 3,
            limit=_QUICK_IMAGES if quick else None,
            progress=progress,
        )
    artifacts = folder / "artifacts"
    exported = export(checkpoint, out=artifacts, formats=formats, model=model, progress=progress)
    subject = find_subject([artifacts], checkpoint=checkpoint, model=model)
    candidates = with_null(line_up(subject, runtimes, settings), subject, settings)
    check_fits(dataset, subject.checkpoint)
    lost = [
        row for item in exported.failures for row in check.lost(item.format, item.failure, dataset)
    ]
    results = replace(start_results(subject, dataset), parity=tuple(lost))
    reference = check.reference(subject, dataset, settings)
    with open_sessions(candidates, batch_size=batch_size, timeout_s=timeout_s) as sessions:
        for session in sessions[:-1]:  # the last one is null: nothing to verify
            report = check.report(session, dataset, reference)
            results = replace(results, parity=(*results.parity, report))
            write_results(folder / RESULTS, results)
        measurements = plan.measure(sessions, dataset)
    results = replace(results, measurements=tuple(measurements))
    write_results(folder / RESULTS, results)
    write_atomically(folder / "results.md", render_markdown(results))
    write_atomically(folder / "results.csv", render_csv(results))
    return Run(folder=folder, results=results)
