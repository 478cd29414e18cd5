"""The complete check of one candidate: all test images, second look, verdict, cause.

In: a session and the data to compare it with. Out: a parity report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.errors import FailedRun
from toolkit.parity.causes import Symptoms, find_cause
from toolkit.parity.expected import WINOGRAD, Expectations
from toolkit.parity.gates import MAX_FLOORS, GateSettings
from toolkit.parity.labels import label_remarks, refuse_foreign_labels
from toolkit.parity.make_reference import ReferenceMaker
from toolkit.parity.reference import References
from toolkit.parity.second_look import SecondLook
from toolkit.parity.verdict import compare, not_run
from toolkit.report.progress import Progress, silent
from toolkit.schema import EXACT_PRECISIONS, Attestation, Cause, Check, ParityReport, Settings
from toolkit.sessions.candidates import Candidate, Subject
from toolkit.sessions.predictions import predict_all
from toolkit.sessions.remote import RemoteSession

_SEARCH_S = 60.0  # for the search for a cause; it usually takes about 10 s


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """The data that all candidates of a run are compared with."""

    subject: Subject
    dataset: Dataset
    references: References
    expectations: Expectations
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answers:
    """The answers of a session: logits `[N,K]` of the data set, and the second look."""

    logits: NDArray[np.floating]
    checks: tuple[Check, ...]
    attestation: Attestation


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """Compares candidates with their checkpoint; see `toolkit.verify` for the fields.

    `explain` enables the search for the cause of a failure, which takes some seconds.
    """

    batch_size: int
    gates: GateSettings = field(default_factory=GateSettings)
    timeout_s: float
    progress: Progress = silent
    explain: bool = True

    def basis(self, subject: Subject, dataset: Dataset, settings: Settings) -> Basis:
        """Compute the checkpoint's own logits in float64; see `toolkit.parity.make_reference`.

        Raises:
            FailedRun: The checkpoint cannot be run.
            CheckpointError: Its logits cannot be used as a reference.
            DatasetError: The labels do not belong to the images.
        """
        references = ReferenceMaker(
            subject=subject,
            dataset=dataset,
            settings=settings,
            timeout_s=self.timeout_s,
            progress=self.progress,
        ).make()
        refuse_foreign_labels(subject.checkpoint, dataset, references.data)
        return Basis(
            subject=subject,
            dataset=dataset,
            references=references,
            expectations=Expectations.of(
                subject,
                dataset,
                references.data,
                threads=settings.threads,
                timeout_s=self.timeout_s,
            ),
            remarks=label_remarks(subject.checkpoint, dataset, references.data),
        )

    def judge(
        self, session: RemoteSession, basis: Basis
    ) -> tuple[ParityReport, NDArray[np.floating] | None]:
        """Run all images through one candidate. Return its report and the logits `[N,K]` that it
        covers, or None if there are none. A candidate that cannot be run gets a report too."""
        candidate = session.candidate
        try:
            answers = self._ask(session, basis)
            report = self._compare(answers, candidate, basis)
            if self._needs_allowance(report):
                report = self._with_allowance(report, answers, candidate, basis)
        except FailedRun as failure:
            return self._lost(failure, candidate, basis), None
        if report.status == "failed" and self.explain:
            self.progress(f"{candidate.label} cause", 0, 1)
            report = replace(report, cause=self._cause(report, answers, candidate, basis))
            self.progress(f"{candidate.label} cause", 1, 1)
        return report, answers.logits

    def _ask(self, session: RemoteSession, basis: Basis) -> _Answers:
        """Ask for all images, then for the second look."""
        gates = self.gates.of(session.candidate.source.artifact.precision)
        logits = predict_all(
            session, basis.dataset, self.batch_size, session.candidate.label, self.progress
        )
        attested = session.load().attestation  # read before a second look that may end the session
        checks: tuple[Check, ...] = ()
        if logits.shape == basis.references.data.logits.shape:
            look = SecondLook(dataset=basis.dataset, references=basis.references)
            checks = tuple(
                look.checks(
                    session, logits, batch_size=self.batch_size, gates=gates, progress=self.progress
                )
            )
            if all(each.difference is not None for each in checks):  # the session is still running
                attested = session.attest()
                checks += tuple(_files_not_run(session.candidate.source.path, attested))
        return _Answers(logits=logits, checks=checks, attestation=attested)

    def _compare(
        self,
        answers: _Answers,
        candidate: Candidate,
        basis: Basis,
        *,
        max_floors: float | None = None,
    ) -> ParityReport:
        artifact = candidate.source.artifact
        gates = self.gates.of(artifact.precision)
        checks = answers.checks
        if max_floors is not None:
            gates = replace(gates, max_floors=max_floors)
            checks = tuple(_excused(each, max_floors) for each in checks)
        report = compare(
            basis.references.data,
            answers.logits,
            runtime=candidate.runtime.name,
            artifact=artifact,
            gates=gates,
            session=answers.attestation,
            expected_error=basis.expectations.error(candidate),
            checks=checks,
        )
        return replace(report, remarks=(*report.remarks, *artifact.warnings, *basis.remarks))

    def _needs_allowance(self, report: ParityReport) -> bool:
        """Return whether an fp32 row is too far away and may use kernels that are not plain
        float32."""
        far = max([report.max_diff_in_floors or 0, *(each.floors or 0 for each in report.checks)])
        return (
            report.precision in EXACT_PRECISIONS
            and report.gates.max_floors is not None
            and far > MAX_FLOORS
        )

    def _with_allowance(
        self, report: ParityReport, answers: _Answers, candidate: Candidate, basis: Basis
    ) -> ParityReport:
        """Judge again with the allowance of the attested arithmetic. If the runtime can switch off
        its fast kernels, the artifact itself is judged without them, by the usual distance."""
        arithmetic = answers.attestation.arithmetic
        allowance = basis.expectations.allowance(arithmetic)
        if allowance is None:
            return report
        text = (
            f"its kernels compute in {arithmetic}, so {allowance.floors:,.0f} noise floors are "
            f"allowed instead of {MAX_FLOORS:,.0f}: {allowance.text}"
        )
        if arithmetic == WINOGRAD and not candidate.settings.plain:
            plain = replace(candidate, settings=replace(candidate.settings, plain=True))
            with RemoteSession(
                plain, batch_size=self.batch_size, timeout_s=self.timeout_s
            ) as session:
                judged = self._compare(self._ask(session, basis), plain, basis)
            text += f"; without these kernels it is {judged.max_diff_in_floors:,.1f} away"
            if judged.status == "failed":
                return replace(report, reason=f"{judged.reason} (with fast kernels switched off)")
        again = self._compare(answers, candidate, basis, max_floors=allowance.floors)
        return replace(again, allowance=text)

    def _lost(self, failure: FailedRun, candidate: Candidate, basis: Basis) -> ParityReport:
        artifact = candidate.source.artifact
        return not_run(
            failure,
            runtime=candidate.runtime.name,
            format=artifact.format,
            precision=artifact.precision,
            artifact_sha256=artifact.sha256,
            expected=len(basis.dataset),
            gates=self.gates.of(artifact.precision),
            embeds_preprocessing=artifact.embeds_preprocessing,
            file=candidate.source.path.name,
        )

    def _cause(
        self, report: ParityReport, answers: _Answers, candidate: Candidate, basis: Basis
    ) -> Cause | None:
        reference = basis.references.data
        expected = report.expected_error
        symptoms = Symptoms(
            reference=reference.logits,
            candidate=answers.logits,
            floors=reference.floors,
            labels=reference.labels,
            batch_size=self.batch_size,
            precision=report.precision,
            expected_rms=None if expected is None else expected.rms,
            checks=report.checks,
        )
        return find_cause(
            symptoms=symptoms,
            subject=basis.subject,
            candidate=candidate,
            dataset=basis.dataset,
            timeout_s=_SEARCH_S,
        )


def _files_not_run(path: Path, attested: Attestation) -> Iterator[Check]:
    """Return a failed check for each file of an artifact that computed nothing, if the session
    loads several files separately."""
    if not attested.files:
        return
    suffixes = {Path(name).suffix for name in attested.files}
    for file in sorted(path.iterdir()):
        if file.suffix in suffixes and file.name not in attested.files:
            yield Check(
                name=file.name,
                images=0,
                batch_size=0,
                difference=None,
                floors=None,
                reason="not compared: no batch of the check had the size that this file takes",
            )


def _excused(check: Check, max_floors: float) -> Check:
    """Judge a check that failed only by its distance again, with a wider limit."""
    if check.reason is None or check.floors is None or check.floors > max_floors:
        return check
    return replace(check, reason=None)
