"""Precisions and their traits, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp64", "fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """One precision.

    Attributes:
        exported: Formats can be written in it; the others are only computed in or attested.
        exact: Its logits equal the checkpoint's, up to the rounding of float32 sums.
        quantised: Its weights have 8 bits.
        calibrated: Export measures the ranges of its activations on training images.
        int8_products: It multiplies 8-bit integers, so the instruction set may change its results.
        depends_on_the_batch: The logits of an image change slightly with the other images in its
            batch.
    """

    exported: bool = True
    exact: bool = False
    quantised: bool = False
    calibrated: bool = False
    int8_products: bool = False
    depends_on_the_batch: bool = False


TRAITS: dict[Precision, Traits] = {
    "fp64": Traits(exported=False, exact=True),
    "fp32": Traits(exact=True),
    "fp16": Traits(),
    "bf16": Traits(exported=False),
    "int8": Traits(quantised=True, calibrated=True, int8_products=True),
    "int8-dynamic": Traits(quantised=True, int8_products=True, depends_on_the_batch=True),
    "int8-weights": Traits(quantised=True),
}
EXPORTED_PRECISIONS = tuple(name for name, traits in TRAITS.items() if traits.exported)
EXACT_PRECISIONS = tuple(name for name, traits in TRAITS.items() if traits.exact)
