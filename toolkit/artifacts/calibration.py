"""Calibration: the training images used to measure int8 ranges.

In: the training set, a number, a seed. Out: raw images, and the record for the manifest.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.rounding.number_formats import MEASURED_IMAGES
from toolkit.data import Dataset, load_dataset
from toolkit.errors import DatasetError, FailedRun, ToolkitWarning, Unsupported
from toolkit.files.paths import StrPath, optional_path
from toolkit.report.progress import Progress, silent
from toolkit.schema import TRAITS, Artifact, Calibration, Checkpoint, Precision
from toolkit.settings import check_positive, check_seed


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """The number and the selection of images from the training set in `data` (None: bundled
    MNIST)."""

    images: int = 500
    seed: int = 0
    data: StrPath | None = None

    def __post_init__(self) -> None:
        check_positive("--calibration-images", self.images)
        check_seed(self.seed, "--calibration-seed")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Raw training images for an export; each is None if no precision needs it.

    int8 ranges are measured on `images`, which `record` describes, and the expected error on
    `measured`. `failure` is why there are none.
    """

    images: NDArray[Any] | None = None
    record: Calibration | None = None
    measured: NDArray[Any] | None = None
    failure: FailedRun | None = None


def draw(
    settings: CalibrationSettings,
    checkpoint: Checkpoint,
    progress: Progress = silent,
    *,
    say_few: bool = True,
) -> tuple[NDArray[Any], Calibration]:
    """Return raw samples `[N,...]` drawn without replacement, and their record.

    Raises:
        DatasetError: There is no training set, or it does not fit the model.

    Warns:
        ToolkitWarning: It has fewer images; all of them are used. Not with `say_few=False`.
    """
    where = optional_path(settings.data, "data")
    dataset = load_dataset("train", where, checkpoint=checkpoint, progress=progress)
    count = min(settings.images, len(dataset))
    if settings.images > len(dataset) and say_few:
        warnings.warn(
            f"--calibration-images {settings.images}: the training set {dataset.record.name} "
            f"has only {len(dataset)} images; all of them are used",
            ToolkitWarning,
            stacklevel=2,
        )
    random = np.random.default_rng(settings.seed)
    indices = np.sort(random.choice(len(dataset), count, replace=False))
    record = Calibration(
        dataset=dataset.record,
        images=count,
        seed=settings.seed,
        indices_sha256=hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest(),
    )
    return dataset.images[indices], record


def draw_for(
    settings: CalibrationSettings,
    record: Checkpoint,
    precisions: Sequence[Precision],
    progress: Progress,
) -> Drawing:
    """Draw the training images that the precisions need.

    Raises:
        DatasetError: All precisions need calibration images, but they are missing or unsuitable.
    """
    calibrated = [TRAITS[each].calibrated for each in precisions]
    if not any(calibrated) and not any(TRAITS[each].quantised for each in precisions):
        return Drawing()
    if any(calibrated):
        try:
            images, drawn = draw(settings, record, progress)
        except DatasetError as error:
            if all(calibrated):
                raise
            reason = f"int8 ranges are measured on training images, but: {error}"
            return Drawing(failure=Unsupported(reason))
        return Drawing(images=images, record=drawn, measured=images[:MEASURED_IMAGES])
    try:
        few = replace(settings, images=min(settings.images, MEASURED_IMAGES))
        return Drawing(measured=draw(few, record, progress, say_few=False)[0])
    except DatasetError:  # the export works without a measured error
        return Drawing()


def refuse_overlap(artifacts: Iterable[Artifact], dataset: Dataset) -> None:
    """Raise DatasetError if `dataset` contains images that an artifact was calibrated on: it is
    more accurate on those than on other images."""
    own = _images_of(dataset.record.sha256)
    for artifact in artifacts:
        calibration = artifact.calibration
        if calibration is not None and own & _images_of(calibration.dataset.sha256):
            raise DatasetError(
                f"{artifact.path} was calibrated on {calibration.images} images of the same "
                f"files that are now used to verify it ({dataset.record.name}, "
                f"{dataset.record.split}); give other test images with --data, or export it "
                "again with other training images"
            )


def _images_of(sha256: dict[str, str]) -> set[str]:
    return {checksum for name, checksum in sha256.items() if "labels" not in name}
