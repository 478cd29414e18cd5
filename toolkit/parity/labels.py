"""Do the labels belong to the images? The checkpoint's own accuracy tells. Pure.

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
    """Raise DatasetError where the checkpoint is right on less than half of what its record says:
    then the labels are shuffled, or of other images, and accuracy shows nothing."""
    training = checkpoint.training
    if training is None:
        return
    right = round(reference.accuracy * len(dataset))
    bound = rate(right, len(dataset), _CONFIDENCE)
    if bound.high < _LOST * training.accuracy:
        raise DatasetError(
            f"the checkpoint is right on {reference.accuracy:.2%} of the {len(dataset):,} test "
            f"images of {dataset.record.name}, and its record says {training.accuracy:.2%} for "
            f"{training.dataset.name}: the labels are shuffled, or these are not the images that "
            "the model is for; check --data"
        )


def label_remarks(
    checkpoint: Checkpoint, dataset: Dataset, reference: Reference
) -> tuple[str, ...]:
    """What a reader should know of the labels: the checkpoint's accuracy is not the recorded one,
    or no better than guessing."""
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
            f"the checkpoint is right on {accuracy:.2%} of these images, about what guessing "
            "gives: check that the labels belong to them",
        )
    return ()
