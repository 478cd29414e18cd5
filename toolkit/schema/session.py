"""Records of a session: the requested settings, and the attestation of what runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toolkit.schema.literals import Device
from toolkit.schema.precisions import Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The requested settings of a session.

    Attributes:
        threads: Intra-op threads of one stream.
        device: The device that computes.
        streams: Calls that run at the same time, each on its own copy of the session.
        keep_memory: Keep memory that the runtime frees in the process; see
            `toolkit.machine.allocator`.
        plain: Switch off fast kernels that do not compute plain float32 sums of products (for
            example Winograd convolutions), if the runtime can.
    """

    threads: int
    device: Device = "cpu"
    streams: int = 1
    keep_memory: bool = False
    plain: bool = False

    @property
    def all_threads(self) -> int:
        """The number of threads that work at the same time."""
        return self.threads * self.streams


Evidence = Literal["read back", "from the file", "by design", "as asked"]
"""How an attested value is known: the runtime reported it, the bytes of the artifact say it, the
runtime has no other way to work, or nothing shows it and it is only the request."""

NO_OP = "no-op"
"""The runtime that computes nothing: its time is the harness's own cost, and it has no speed."""
EAGER = "eager"
"""The runtime that runs the checkpoint itself: the model that all others must agree with."""
FLOAT32 = "float32"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What really runs in a session, read back from the runtime, not from the request.

    Attributes:
        streams: How many such sessions the worker holds and runs at the same time.
        keep_memory: Whether the C library accepted the parameters for it.
        arithmetic: What the kernels compute in: `float32` (plain sums of products), `float32
            (Winograd)`, `TF32`, `int8` ..., or `unknown`.
        evidence: How each value is known: `provider`, `precision`, `threads`, `arithmetic`.
        confinement: How the system kept the worker from everything that is not its business
            (`Landlock 7, seccomp`), or why it did not; None in results of older versions.
        files: Files of the artifact that have computed something so far, if it has several that are
            loaded separately.
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
    confinement: str | None = None
    files: tuple[str, ...] = ()
