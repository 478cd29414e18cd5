"""Verification: every test image through each candidate → parity reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.calibration import refuse_overlap
from toolkit.candidates import Subject, find_subject, line_up
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import FailedRun
from toolkit.machine.fitness import judge_artifacts
from toolkit.parity.gates import GateSettings
from toolkit.parity.labels import refuse_foreign_labels
from toolkit.parity.reference import References
from toolkit.parity.second_look import SecondLook
from toolkit.parity.verdict import compare, not_run
from toolkit.progress import Progress, silent
from toolkit.reference import ReferenceMaker
from toolkit.results import start_results
from toolkit.schema import Device, ParityReport, Results, Settings
from toolkit.settings import session_settings
from toolkit.targets import RemoteSession, open_sessions, predict_all


def verify(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    device: Device = "cpu",
    keep_memory: bool = False,
    gates: GateSettings | None = None,
    timeout_s: float = 300.0,
    model: str | None = None,
    progress: Progress = silent,
) -> Results:
    """Compare artifacts with their checkpoint on all test images.

    Args:
        paths: Export folders or artifact files, all of one checkpoint.
        runtimes: Names from `toolkit.runtimes.RUNTIMES`; none means all that load the artifacts.
        checkpoint: The checkpoint folder, where it is not the one that the manifest names.
        data: Folder of IDX files; None is the bundled MNIST.
        batch_size: Images a call; the last batch may be smaller.
        threads: Intra-op threads of each session; None takes all usable cores.
        device: `cpu` or `cuda`.
        keep_memory: Memory that a runtime frees stays with its process.
        gates: What a row must keep to pass; None is the default of each precision.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about the images of each candidate.

    Returns:
        Results with one parity report a candidate; `exit_code` says what a script wants to know.

    Raises:
        ToolkitError: bad input, or the float64 reference itself could not be computed.
    """
    settings = session_settings(
        threads, device, keep_memory=keep_memory, batch_size=batch_size, timeout_s=timeout_s
    )
    check = ParityCheck(
        batch_size=batch_size,
        gates=gates or GateSettings(),
        timeout_s=timeout_s,
        progress=progress,
    )
    subject = find_subject(paths, checkpoint=checkpoint, model=model)
    candidates = line_up(subject, runtimes, settings)
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    results = start_results(subject, dataset)  # before the work: its own load is no fact
    refuse_overlap(results.artifacts, dataset)
    references = check.references(subject, dataset, settings)
    rows = []
    with open_sessions(candidates, batch_size=batch_size, timeout_s=timeout_s) as sessions:
        for session in sessions:
            with session:  # one worker at a time: each has the machine to itself
                rows.append(check.judge(session, dataset, references)[0])
    warnings = judge_artifacts(results.environment, [item.source.artifact for item in candidates])
    return replace(results, parity=tuple(rows), warnings=warnings)


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """How candidates are compared with their checkpoint; see `verify` for the fields."""

    batch_size: int
    gates: GateSettings = field(default_factory=GateSettings)
    timeout_s: float
    progress: Progress = silent

    def references(self, subject: Subject, dataset: Dataset, settings: Settings) -> References:
        """The checkpoint's own logits in float64, computed or kept; see `toolkit.reference`.

        Raises:
            FailedRun: the checkpoint cannot be run.
            CheckpointError: its logits are no reference.
            DatasetError: the labels are not those of the images.
        """
        references = ReferenceMaker(
            subject=subject,
            dataset=dataset,
            settings=settings,
            timeout_s=self.timeout_s,
            progress=self.progress,
        ).make()
        refuse_foreign_labels(subject.checkpoint, dataset, references.data)
        return references

    def judge(
        self, session: RemoteSession, dataset: Dataset, references: References
    ) -> tuple[ParityReport, NDArray[np.floating] | None]:
        """The report of all images through one candidate, and the logits `[N,K]` that it is about;
        None where there are none. A candidate that cannot be run gets its row too."""
        runtime, artifact = session.candidate.runtime.name, session.candidate.source.artifact
        gates = self.gates.of(artifact.precision)
        try:
            logits = predict_all(
                session, dataset, self.batch_size, session.candidate.label, self.progress
            )
            look = SecondLook(dataset=dataset, references=references)
            checks = tuple(
                look.checks(
                    session, logits, batch_size=self.batch_size, gates=gates, progress=self.progress
                )
            )
            attested = session.load().attestation
        except FailedRun as failure:
            lost = not_run(
                failure,
                runtime=runtime,
                format=artifact.format,
                precision=artifact.precision,
                artifact_sha256=artifact.sha256,
                expected=len(dataset),
                gates=gates,
                file=session.candidate.source.path.name,
            )
            return lost, None
        report = compare(
            references.data,
            logits,
            runtime=runtime,
            artifact=artifact,
            gates=gates,
            session=attested,
            expected_error=artifact.expected_error,
            checks=checks,
        )
        return report, logits
