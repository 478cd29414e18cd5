"""Literal types: texts with a fixed set of values. Precisions are in `precisions.py`."""

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
Isa = Literal["avx2", "vnni", "arm", "wasm"]
Device = Literal["cpu", "cuda"]
