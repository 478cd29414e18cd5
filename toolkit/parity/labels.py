"""Check that the labels belong to the images, by the checkpoint's own accuracy; pure functions.

In: the checkpoint's record and its reference on the data set. Out: an error, or a remark.
"""

from __future__ import annotations

from toolkit.data import Dataset
from toolkit.errors import DatasetError
from toolkit.parity.reference import Reference
from toolkit.schema import Checkpoint
from toolkit.statistics.shares import rate

_CONFIDENCE = 0.9999
_LOST = 0.5  # of the recorded accuracy


def refuse_foreign_labels(checkpoint: Checkpoint, dataset: Dataset, reference: Reference) -> None:
    """Raise DatasetError if the checkpoint is right on less than half as many images as its record
    says. The labels are then shuffled or belong to other images, and accuracy shows nothing."""
    training = checkpoint.training
    if training is None:
        return
    right = round(reference.accuracy * len(dataset))
    bound = rate(right, len(dataset), _CONFIDENCE)
    if bound.high < _LOST * training.accuracy:
        raise DatasetError(
            f"the checkpoint is right on {reference.accuracy:.2%} of the {len(dataset):,} test "
            f"images of {dataset.record.name}, but its record says {training.accuracy:.2%} for "
            f"{training.dataset.name}: the labels are shuffled, or the model was made for other "
            "images; check --data"
        )


def label_remarks(
    checkpoint: Checkpoint, dataset: Dataset, reference: Reference
) -> tuple[str, ...]:
    """Return remarks about the labels: the accuracy of the checkpoint differs from its record, or
    is no better than guessing."""
    images, accuracy = len(dataset), reference.accuracy
    bound = rate(round(accuracy * images), images, _CONFIDENCE)
    training = checkpoint.training
    if training is not None and not bound.low <= training.accuracy <= bound.high:
        return (
            f"the checkpoint is right on {accuracy:.2%} of these images; its record says "
            f"{training.accuracy:.2%} for {training.dataset.name}",
        )
    if bound.high < 2 / checkpoint.classes:
        return (
            f"the checkpoint is right on {accuracy:.2%} of these images, which is about as good "
            "as guessing: check that the labels belong to the images",
        )
    return ()
