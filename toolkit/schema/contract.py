"""Records of a card: how to feed an artifact, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.schema.model import CheckpointId, InputSpec
from toolkit.schema.precisions import Precision

CARD_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a caller of the model must know, whatever the format. It is also written into the file
    itself, if the format has a place for it.

    Attributes:
        input: The name of the input.
        output: The name of the output: one logit per class, not softmax.
        layout: The dimensions of the input, one letter each: `NCHW`.
        dtype: Of the input.
        shape: Of one sample, without `N`.
        classes: The number of logits.
        class_names: In the order of the logits; empty if they are not known.
        preprocessing: What makes the input from a raw sample.
        embeds_preprocessing: Whether the file scales and normalises by itself.
        checkpoint: The checkpoint that the file was exported from.
        toolkit: The version of the toolkit that wrote the file.
    """

    input: str = "input"
    output: str = "logits"
    layout: str
    dtype: Literal["float32", "uint8"]
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    preprocessing: InputSpec
    embeds_preprocessing: bool
    checkpoint: CheckpointId
    toolkit: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """The fields of an artifact's card.

    Attributes:
        file: The name of the artifact.
        batch_sizes: The batch sizes that one call takes, in words.
        warnings: What a user should know about this file.
    """

    schema_version: int
    file: str
    format: str
    precision: Precision
    size_bytes: int
    sha256: str
    batch_sizes: str
    contract: Contract
    warnings: tuple[str, ...]
