"""The search for the cause of a failed row, with its evidence.

In: the symptoms of a row. Out: a `Cause`, or None. The search looks at the logits alone, then at
the weights in the file, then at the checkpoint with changed inputs and changed operators, then at
the graph in the file.

To add a cause: one that shows in the logits is a function in `order`, `outputs`, `places` or
`linear`, listed in `logits`. Others belong to `tensors` (weights), `inputs` (images) or `changes`
(operators).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Dataset
from toolkit.errors import FailedRun
from toolkit.parity.causes.apart import Job, Outcome, search_apart
from toolkit.parity.causes.logits import general_cause, specific_cause
from toolkit.parity.causes.symptoms import Symptoms
from toolkit.schema import Cause
from toolkit.sessions.candidates import Candidate, Subject
from toolkit.sessions.remote import RemoteSession

__all__ = ["Symptoms", "find_cause"]

_WORST = 50
_SPREAD = 70
_LARGEST_BATCH = 200
_OWN_CAUSE = {"scale", "offset", "scale and offset"}
"""Exact on all logits. The file may add details; experiments would only repeat it."""

_SAYS_LESS = {"graph changed"}
"""Kinds that say less than the logits show; they are evidence for it."""


def find_cause(
    *,
    symptoms: Symptoms,
    subject: Subject,
    candidate: Candidate,
    dataset: Dataset,
    timeout_s: float = 15.0,
) -> Cause | None:
    """Look for the cause of a row that failed or is undecided.

    Args:
        symptoms: Symptoms of all images of `dataset`, in its order.
        subject: The checkpoint.
        candidate: The artifact in its runtime.
        dataset: Raw images.
        timeout_s: Time limit of the search in a child process; it then ends without a cause.

    Returns:
        The cause with its evidence; None if nothing explains the row.
    """
    cause = specific_cause(symptoms)
    if cause is not None or not symptoms.comparable or not symptoms.wrong.any():
        return cause
    general = general_cause(symptoms)
    own = general is not None and general.kind in _OWN_CAUSE
    job = _job(symptoms, subject, candidate, budget_s=0 if own else timeout_s / 2)
    found = _search(job, symptoms, dataset, timeout_s)
    if found.cause is not None and general is not None and (own or found.cause.kind in _SAYS_LESS):
        return replace(general, text=f"{general.text} {found.cause.text}")
    if found.cause is not None:
        return found.cause
    if general is not None:
        return general
    unsteady = general_cause(
        replace(symptoms, repeatable=_repeatable(symptoms, candidate, dataset))
    )
    if unsteady is not None or not found.untouched:
        return unsteady
    return Cause(
        kind="file as exported",
        text="The weights and the graph in the file equal those of a fresh export of the "
        "checkpoint: the file was not changed after the export.",
        action="Check the runtime, its settings and its version, or the exporter itself: run "
        "the file in another runtime.",
    )


def _job(symptoms: Symptoms, subject: Subject, candidate: Candidate, *, budget_s: float) -> Job:
    checkpoint, source = subject.checkpoint, candidate.source
    return Job(
        checkpoint=str(subject.folder.resolve()),
        checkpoint_id=checkpoint.id,
        model=subject.model,
        input=checkpoint.input,
        artifact=str(source.path.resolve()),
        format=source.artifact.format,
        precision=source.artifact.precision,
        embeds_preprocessing=source.artifact.embeds_preprocessing,
        batch_size=symptoms.batch_size,
        tolerance_floors=symptoms.tolerance_floors,
        expected_rms=symptoms.expected_rms,
        threads=candidate.settings.all_threads,
        budget_s=budget_s,
        arrays="",
    )


def _search(job: Job, symptoms: Symptoms, dataset: Dataset, timeout_s: float) -> Outcome:
    rows = _sample(symptoms)
    images = np.asarray(dataset.images[rows])
    return search_apart(job, symptoms.of(rows), images, timeout_s=timeout_s)


def _sample(symptoms: Symptoms) -> NDArray[np.intp]:
    """Return about 200 images: first the whole batch of the worst one, then other bad ones, then
    any."""
    by_size = np.argsort(-symptoms.difference.max(axis=1), kind="stable")
    size = symptoms.batch_size
    first = int(by_size[0]) // size * size
    batch = np.arange(first, min(first + min(size, _LARGEST_BATCH), symptoms.images))
    spread = np.linspace(0, symptoms.images - 1, min(_SPREAD, symptoms.images)).astype(np.intp)
    rows = np.concatenate([batch, by_size[:_WORST], spread])
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _repeatable(symptoms: Symptoms, candidate: Candidate, dataset: Dataset) -> bool | None:
    """Return whether two runs of the worst image's batch agree; None if the candidate does not
    run."""
    if symptoms.repeatable is not None:
        return symptoms.repeatable
    rows = _sample(symptoms)[: symptoms.batch_size]
    images = np.asarray(dataset.images[rows])
    try:
        with RemoteSession(candidate, batch_size=symptoms.batch_size, timeout_s=10.0) as session:
            first, second = session.predict([images, images], batch_size=symptoms.batch_size)
    except FailedRun:
        return None
    moved = np.abs(first - second).max(axis=1)
    return bool((moved <= symptoms.tolerance_floors * symptoms.floors[rows]).all())
