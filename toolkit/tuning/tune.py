"""Tuning: artifacts → the fastest configuration that passes verification.

Runtime, precision, threads and streams are searched by successive halving. A short stage measures
all candidates with one thread. The better half continues with each way to use all cores. Fast
enough candidates are compared with the checkpoint, the fastest first. The best that pass are
compared with each other and with eager PyTorch, in passes of interleaved rounds. The possible
winners are measured again, because the speed that selected a winner is an overestimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from toolkit.artifacts.calibration import refuse_overlap
from toolkit.data import load_dataset
from toolkit.data.sample import draw_sample
from toolkit.errors import Interrupted, SettingError, ToolkitError
from toolkit.files import check_writable
from toolkit.files.locks import locked_file
from toolkit.files.paths import Paths, StrPath, as_paths, optional_path
from toolkit.machine.environment import usable_cores
from toolkit.machine.threads import check_threads
from toolkit.names import known_precisions
from toolkit.parity.gates import GateSettings
from toolkit.report.labels import count_of
from toolkit.report.progress import Progress, silent
from toolkit.results import TUNING, read_tuning, write_tuning
from toolkit.schema import (
    Constraints,
    Precision,
    Tuning,
)
from toolkit.sessions.candidates import (
    Subject,
    find_subject,
)
from toolkit.sessions.runtimes import ALL, find_runtime, runtime_names
from toolkit.settings import check_batch_size, check_positive
from toolkit.timing import Stopwatch
from toolkit.tuning.search import Search


def tune(
    paths: Paths,
    *,
    runtimes: str | Sequence[str] = (),
    precisions: str | Sequence[str] = (),
    checkpoint: StrPath | None = None,
    data: StrPath | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    constraints: Constraints | None = None,
    quick: bool = False,
    out: StrPath | None = None,
    timeout_s: float = 300.0,
    model: str | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Tuning:
    """Find the fastest configuration of a checkpoint's artifacts that passes verification.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.sessions.runtimes`; none means all that load the
            artifacts.
        precisions: Use only artifacts of these precisions; none means all.
        checkpoint: The checkpoint folder, if it is not the one named in the manifest.
        data: The data set whose test images are the inputs; None is the bundled MNIST.
        batch_size: Images per call.
        threads: Total number of threads that may work at the same time; None uses all usable cores.
        constraints: Limits that a recommendation must keep.
        quick: Compare only 500 test images, and measure the finalists for a shorter time.
        out: Folder to write `tuning.json` to; None writes none.
        timeout_s: A worker that does not answer for this long is killed.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust all programs among the artifacts, and the model factory.
        progress: Receives the progress of every stage.

    Returns:
        All trials, how far each came, and the recommendation; None if there is none.

    Raises:
        ToolkitError: Bad input, a program that is not trusted, or the float64 reference could not
            be computed.
        Interrupted: Ctrl-C after the first stage; it carries the trials so far.
    """
    watch = Stopwatch()
    paths, checkpoint = as_paths(paths), optional_path(checkpoint, "checkpoint")
    data, out = optional_path(data, "data"), optional_path(out, "out")
    runtimes, chosen = runtime_names(runtimes), known_precisions(precisions)
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
        check_writable(out / TUNING)
    cores = usable_cores() if threads is None else check_threads(threads)
    subject = find_subject(paths, checkpoint=checkpoint, model=model, trust=trust)
    subject = _only(subject, chosen)
    dataset = load_dataset("test", data, checkpoint=subject.checkpoint, progress=progress)
    refuse_overlap([stored.record for stored in subject.artifacts], dataset)
    if quick:
        dataset, _ = draw_sample(dataset)
    search = Search(
        subject=subject,
        dataset=dataset,
        batch_size=batch_size,
        cores=cores,
        precisions=chosen,
        wanted=wanted,
        gates=gates,
        quick=quick,
        timeout_s=timeout_s,
        progress=progress,
    )
    with locked_file(out / TUNING) if out is not None else nullcontext():
        try:
            found = search.run(runtimes)
        except KeyboardInterrupt as stop:
            partial = search.interrupted()
            if not partial.trials:
                raise
            partial = replace(partial, wall_s=watch.elapsed_s())
            raise Interrupted(partial, _keep_partial(partial, out)) from stop
        tuning = replace(found, wall_s=watch.elapsed_s())
        if out is not None:
            write_tuning(out / TUNING, tuning)
        return tuning


def _keep_partial(partial: Tuning, out: Path | None) -> str:
    """Write an interrupted tuning, unless its file holds a recommendation of an earlier one. Return
    what is finished, where it is, and what happens next."""
    done = f"{count_of(len(partial.trials), 'configuration')} tried"
    again = "the same command starts with the first stage, but its reference is kept"
    if out is None:
        return f"{done}; {again}"
    place = out / TUNING
    with suppress(ToolkitError):
        read_tuning(place)
        return f"{done}; {place} still holds the recommendation of an earlier run; {again}"
    write_tuning(place, partial)
    return f"{done} and kept in {place}, without a recommendation; {again}"


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
