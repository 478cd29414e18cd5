"""Words with a fixed set of values."""

from __future__ import annotations

from typing import Literal

Status = Literal[
    "passed",
    "failed",
    "undecided",
    "crashed",
    "timed_out",
    "out_of_memory",
    "not_installed",
    "unsupported",
    "measured",
    "too_short",
]
Precision = Literal["fp64", "fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights"]
EXPORTED_PRECISIONS: tuple[Precision, ...] = (
    *("fp32", "fp16", "int8", "int8-dynamic", "int8-weights"),
)
EXACT_PRECISIONS: tuple[Precision, ...] = ("fp64", "fp32")
"""Precisions whose logits equal the checkpoint's, except for the rounding of float32 sums."""
Isa = Literal["avx2", "vnni", "arm", "wasm"]
Device = Literal["cpu", "cuda"]
