"""What a layout gives: samples, labels, and what was decided while they were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.data.images import LazyImages
from toolkit.schema import InputSpec


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a model expects of its data; unknown before a training.

    Attributes:
        input: The input of the model.
        class_names: In the order of its logits; empty if they are not known.
        classes: The number of its logits.
    """

    input: InputSpec | None = None
    class_names: tuple[str, ...] = ()
    classes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RawData:
    """Samples and labels as a layout holds them.

    Attributes:
        images: Raw samples `[N,...]`.
        labels: int64 `[N]`.
        sha256: Maps the name of each source to the checksum that identifies it.
        class_names: In the order of the labels; empty if the data has none.
        notes: How the data was read, to be recorded.
        warnings: What a user should know about it, to be recorded and said.
        dtype: Of the samples.
        prepared: Whether the images already have the size that the model expects.
    """

    images: NDArray[Any] | LazyImages
    labels: NDArray[np.int64]
    sha256: dict[str, str]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    dtype: Literal["uint8", "float32"] = "uint8"
    prepared: bool = False


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """Collects notes and warnings."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
