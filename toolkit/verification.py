"""Verification: every test image through each candidate → parity reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.candidates import Subject, checkpoint_candidate, find_subject, line_up
from toolkit.data import Dataset, check_fits, load_dataset
from toolkit.errors import FailedRun
from toolkit.parity import Reference, compare, default_gates, noise_floor, not_run
from toolkit.progress import Progress, silent
from toolkit.results import start_results
from toolkit.runtimes import RUNTIMES
from toolkit.schema import Device, ParityReport, Results, Settings
from toolkit.settings import check_gates, session_settings
from toolkit.targets import RemoteSession, open_sessions

_CHUNK_IMAGES = 1000
_REFERENCE_BATCH_SIZE = 50  # float64 intermediates of 100 images fall out of a small CPU's caches
_NOISE_IMAGES = 500
_NOISE_BATCH_SIZES = (1, 7, 100)


def verify(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    checkpoint: Path | None = None,
    data: Path | None = None,
    batch_size: int = 100,
    threads: int | None = None,
    device: Device = "cpu",
    max_flips: int | None = None,
    max_accuracy_drop: float | None = None,
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
        max_flips: Allowed argmax flips that are not benign; None is 0 for fp32, else no gate.
        max_accuracy_drop: Allowed drop as a fraction; None is no gate for fp32, else 0.001.
        timeout_s: A worker that does not answer for so long is killed.
        model: The model factory to trust, where it is not the toolkit's own.
        progress: Told about the images of each candidate.

    Returns:
        Results with one parity report a candidate; `exit_code` says what a script wants to know.

    Raises:
        ToolkitError: bad input, or the float64 reference itself could not be computed.
    """
    settings = session_settings(threads, device, batch_size=batch_size, timeout_s=timeout_s)
    check = ParityCheck(
        batch_size=batch_size,
        max_flips=max_flips,
        max_accuracy_drop=max_accuracy_drop,
        timeout_s=timeout_s,
        progress=progress,
    )
    subject = find_subject(paths, checkpoint=checkpoint, model=model)
    candidates = line_up(subject, runtimes, settings)
    dataset = load_dataset("test", data)
    check_fits(dataset, subject.checkpoint)
    reference = check.reference(subject, dataset, settings)
    rows = []
    with open_sessions(candidates, batch_size=batch_size, timeout_s=timeout_s) as sessions:
        for session in sessions:
            with session:  # one worker at a time: each has the machine to itself
                rows.append(check.report(session, dataset, reference))
    return replace(start_results(subject, dataset), parity=tuple(rows))


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """How candidates are compared with their checkpoint; see `verify` for the fields."""

    batch_size: int
    max_flips: int | None = None
    max_accuracy_drop: float | None = None
    timeout_s: float
    progress: Progress = silent

    def __post_init__(self) -> None:
        check_gates(self.max_flips, self.max_accuracy_drop)

    def reference(self, subject: Subject, dataset: Dataset, settings: Settings) -> Reference:
        """The checkpoint's float64 logits, and the noise floor of torch's float32 around them.

        Always on the CPU: a device's own arithmetic is what is being judged.

        Raises:
            FailedRun: the checkpoint cannot be run.
        """
        settings = replace(settings, device="cpu")
        exact = checkpoint_candidate(subject, "eager", settings, precision="fp64")
        with RemoteSession(exact, batch_size=self.batch_size, timeout_s=self.timeout_s) as session:
            logits = self._predict(session, dataset, "reference fp64", _REFERENCE_BATCH_SIZE)
        rows = np.linspace(0, len(dataset) - 1, min(_NOISE_IMAGES, len(dataset)), dtype=int)
        runs = [
            run
            for threads in sorted({1, settings.threads})
            for run in self._float32_runs(
                subject, dataset.images[rows], replace(settings, threads=threads)
            )
        ]
        return Reference(
            logits=logits.astype(np.float64, copy=False),
            labels=dataset.labels,
            noise_floor=noise_floor(logits[rows], runs),
        )

    def report(
        self, session: RemoteSession, dataset: Dataset, reference: Reference
    ) -> ParityReport:
        """All images through one candidate; a candidate that cannot be run gets its row too."""
        runtime, artifact = session.candidate.runtime.name, session.candidate.source.artifact
        gates = default_gates(
            artifact.precision,
            max_flips=self.max_flips,
            max_accuracy_drop=self.max_accuracy_drop,
        )
        try:
            logits = self._predict(session, dataset, session.candidate.label, self.batch_size)
            attested = session.load().attestation
        except FailedRun as failure:
            return not_run(
                failure,
                runtime=runtime,
                format=artifact.format,
                precision=artifact.precision,
                artifact_sha256=artifact.sha256,
                expected=len(dataset),
                gates=gates,
            )
        return compare(
            reference, logits, runtime=runtime, artifact=artifact, gates=gates, session=attested
        )

    def lost(self, format_name: str, failure: FailedRun, dataset: Dataset) -> list[ParityReport]:
        """The rows of a format that could not be exported: one a runtime that would load it."""
        return [
            not_run(
                failure,
                runtime=row.name,
                format=format_name,
                precision="fp32",
                artifact_sha256=None,
                expected=len(dataset),
                gates=default_gates("fp32"),
            )
            for row in RUNTIMES.values()
            if format_name in row.formats
        ]

    def _predict(
        self, session: RemoteSession, dataset: Dataset, label: str, batch_size: int
    ) -> NDArray[np.floating]:
        size = max(1, _CHUNK_IMAGES // batch_size) * batch_size
        self.progress(label, 0, len(dataset))
        parts: list[NDArray[np.floating]] = []
        done = 0
        for logits in session.predict(dataset.chunks(size), batch_size=batch_size):
            parts.append(logits)
            done += len(logits)
            self.progress(label, done, len(dataset), "images")
        return np.concatenate(parts)

    def _float32_runs(
        self, subject: Subject, images: NDArray[np.uint8], settings: Settings
    ) -> Iterator[NDArray[np.floating]]:
        """Eager float32 logits of the same images at several batch sizes."""
        candidate = checkpoint_candidate(subject, "eager", settings)
        with RemoteSession(
            candidate, batch_size=self.batch_size, timeout_s=self.timeout_s
        ) as session:
            for batch_size in _NOISE_BATCH_SIZES:
                yield from session.predict([images], batch_size=batch_size)
