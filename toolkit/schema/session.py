"""Records of a session: what is asked of it, and what it says really runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toolkit.schema.literals import Device
from toolkit.schema.precisions import Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of a session.

    Attributes:
        threads: Intra-op threads of one stream.
        device: Where it computes.
        streams: Calls that run at the same time, each on a copy of the session of its own.
        keep_memory: Memory that the runtime frees stays with the process; see
            `toolkit.machine.allocator`.
        plain: Fast kernels that do not compute plain float32 sums of products (Winograd
            convolutions, say) are off, where the runtime can switch them off.
    """

    threads: int
    device: Device = "cpu"
    streams: int = 1
    keep_memory: bool = False
    plain: bool = False

    @property
    def all_threads(self) -> int:
        """Threads that work at the same time."""
        return self.threads * self.streams


Evidence = Literal["read back", "from the file", "by design", "as asked"]
"""How an attested word is known: the runtime reported it, the artifact's bytes say it, the runtime
has no other way to work, or nothing shows it and it is what was asked for."""

NULL = "null"
"""The runtime that computes nothing: its time is the harness's own cost, and it has no speed."""
EAGER = "eager"
"""The runtime that runs the checkpoint itself: the model that all others must agree with."""
FLOAT32 = "float32"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a session says really runs, read back from the runtime, not from the request.

    Attributes:
        streams: How many such sessions the worker holds, and runs at the same time.
        keep_memory: The C library took the parameters for it.
        arithmetic: What the kernels compute in: `float32` (plain sums of products), `float32
            (Winograd)`, `TF32`, `int8` ..., or `unknown`.
        evidence: How each word is known: `provider`, `precision`, `threads`, `arithmetic`.
        files: The artifact's files that have computed something so far, where it has several that
            are loaded apart.
    """

    runtime: str
    version: str
    provider: str
    device: Device
    precision: Precision
    threads: int
    streams: int = 1
    keep_memory: bool = False
    arithmetic: str = UNKNOWN
    evidence: dict[str, Evidence] = field(default_factory=dict)
    files: tuple[str, ...] = ()
