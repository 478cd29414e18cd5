"""Verification: every test image through every candidate → parity reports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.calibration import refuse_overlap
from toolkit.artifacts.signing import check_signatures
from toolkit.data import load_dataset
from toolkit.data.sample import draw_sample
from toolkit.errors import Interrupted
from toolkit.files.locks import locked_folder
from toolkit.files.paths import Paths, StrPath, as_paths, optional_path
from toolkit.machine.fitness import judge_artifacts
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.gates import GateSettings
from toolkit.parity.pictures import pictures_of
from toolkit.parity.side_by_side import judge_side_by_side
from toolkit.report.labels import count_of
from toolkit.report.parity import row_name, status_text
from toolkit.report.progress import Progress, silent, tell_finished
from toolkit.results import (
    refuse_to_mix,
    start_results,
    words_after_interruption,
    write_folder,
)
from toolkit.schema import ParityReport, Results
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.remote import open_sessions
from toolkit.sessions.runtimes import runtime_names
from toolkit.settings import SessionOptions


def verify(
    paths: Paths,
    *,
    runtimes: str | Sequence[str] = (),
    checkpoint: StrPath | None = None,
    data: StrPath | None = None,
    session: SessionOptions | None = None,
    gates: GateSettings | None = None,
    quick: bool = False,
    key: StrPath | None = None,
    out: StrPath | None = None,
    model: str | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Results:
    """Compare artifacts with their checkpoint on all test images.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.sessions.runtimes`; none means all that load the
            artifacts.
        checkpoint: The checkpoint folder, if it is not the one named in the manifest.
        data: The data set; None is the bundled MNIST.
        session: How sessions run; None uses the defaults of `SessionOptions`.
        gates: Limits that a row must keep to pass; None uses the defaults of each precision.
        quick: Compare only 500 test images, drawn at random. What so few cannot show stays
            undecided.
        key: A public key in PEM that must have signed the folders; None checks no signature.
        out: Folder for `results.json`, `.md` and `.csv`, written after each row; None writes none.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust all programs among the artifacts, and the model factory.
        progress: Receives the progress of each candidate.

    Returns:
        Results with one parity report per candidate, and the `exit_code` for scripts.

    Raises:
        ToolkitError: Bad input, a program that is not trusted, or the float64 reference itself
            could not be computed.
        Interrupted: Ctrl-C after the first row; it carries the results so far.
    """
    paths, checkpoint = as_paths(paths), optional_path(checkpoint, "checkpoint")
    data, out = optional_path(data, "data"), optional_path(out, "out")
    key = optional_path(key, "key")
    runtimes = runtime_names(runtimes)
    options = session or SessionOptions()
    settings = options.settings
    check = ParityCheck(
        batch_size=options.batch_size,
        gates=gates or GateSettings(),
        timeout_s=options.timeout_s,
        progress=progress,
    )
    signed_by = None if key is None else check_signatures(paths, key)
    subject = find_subject(paths, checkpoint=checkpoint, model=model, trust=trust)
    candidates = find_candidates(subject, runtimes, settings)
    dataset = load_dataset("test", data, checkpoint=subject.checkpoint, progress=progress)
    places = np.arange(len(dataset))
    if quick:
        dataset, places = draw_sample(dataset)
    with locked_folder(out) if out is not None else nullcontext():
        if out is not None:
            refuse_to_mix(out)
        # Before the work, so that its own load is not recorded.
        results = start_results(subject, dataset)
        results = replace(results, quick=quick, signed_by=signed_by)
        refuse_overlap(results.artifacts, dataset)
        basis = check.basis(subject, dataset, settings)
        return _verify_all(candidates, basis, results, check, places=places, out=out)


def _verify_all(
    candidates: Sequence[Candidate],
    basis: Basis,
    results: Results,
    check: ParityCheck,
    *,
    places: NDArray[np.intp],
    out: Path | None,
) -> Results:
    """Return `results` with a row for each candidate. Write them to `out` after each row.

    `places` are the positions of the images in the whole test set, for the numbers of images.

    Raises:
        Interrupted: Ctrl-C after the first row.
    """
    artifacts = [item.source.artifact for item in candidates]
    results = replace(results, warnings=judge_artifacts(results.environment, artifacts))
    try:
        with open_sessions(
            candidates, batch_size=check.batch_size, timeout_s=check.timeout_s, shares=True
        ) as sessions:
            rows: dict[int, ParityReport] = {}
            for done in judge_side_by_side(check, basis, sessions):
                rows[done.place] = row = _renumbered(done.report, places)
                found = [rows[at] for at in sorted(rows)]
                shown = pictures_of(found, basis.dataset, places)
                results = replace(results, parity=tuple(found), pictures=shown)
                if out is not None:
                    write_folder(out, results)
                outcome = status_text(row.status, row.reason)
                tell_finished(check.progress, row_name(row), outcome, done.seconds)
    except KeyboardInterrupt as stop:
        if not results.parity:
            raise
        results = replace(results, interrupted=True)
        if out is not None:
            write_folder(out, results)
        count = len(results.parity)
        are = "is" if count == 1 else "are"
        advice = words_after_interruption(
            f"{count} of {count_of(len(candidates), 'row')} {are} finished",
            out,
            "starts with the first row, but its reference is kept",
        )
        raise Interrupted(results, advice) from stop
    return results


def _renumbered(report: ParityReport, places: NDArray[np.intp]) -> ParityReport:
    """Return a report whose images have the numbers that they have in the whole test set."""
    return replace(
        report,
        flipped=tuple(replace(each, index=int(places[each.index])) for each in report.flipped),
        worst=tuple(replace(each, index=int(places[each.index])) for each in report.worst),
    )
