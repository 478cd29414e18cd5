"""Verification: every test image through every candidate → parity reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from toolkit.artifacts.calibration import refuse_overlap
from toolkit.artifacts.signing import check_signatures
from toolkit.data import load_dataset
from toolkit.machine.fitness import judge_artifacts
from toolkit.parity.check import ParityCheck
from toolkit.parity.gates import GateSettings
from toolkit.report.progress import Progress, silent
from toolkit.results import start_results
from toolkit.schema import Results
from toolkit.sessions.candidates import find_candidates, find_subject
from toolkit.sessions.remote import open_sessions
from toolkit.settings import SessionOptions


def verify(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    session: SessionOptions | None = None,
    gates: GateSettings | None = None,
    key: Path | None = None,
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
        key: A public key in PEM that must have signed the folders; None checks no signature.
        model: The model factory to trust, if it is not part of the toolkit.
        trust: Trust all programs among the artifacts, and the model factory.
        progress: Receives the progress of each candidate.

    Returns:
        Results with one parity report per candidate, and the `exit_code` for scripts.

    Raises:
        ToolkitError: Bad input, a program that is not trusted, or the float64 reference itself
            could not be computed.
    """
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
    # Before the work, so that its own load is not recorded.
    results = start_results(subject, dataset)
    refuse_overlap(results.artifacts, dataset)
    basis = check.basis(subject, dataset, settings)
    rows = []
    with open_sessions(
        candidates, batch_size=options.batch_size, timeout_s=options.timeout_s
    ) as sessions:
        for each in sessions:
            with each:  # one worker at a time, so that each has the machine to itself
                rows.append(check.judge(each, basis)[0])
    warnings = judge_artifacts(results.environment, [item.source.artifact for item in candidates])
    return replace(results, parity=tuple(rows), warnings=warnings, signed_by=signed_by)
