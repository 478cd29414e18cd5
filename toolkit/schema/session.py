"""Records of a session: what is asked of it, and what it says really runs."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.words import Device, Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of a session.

    Attributes:
        threads: Intra-op threads of one stream.
        device: Where it computes.
        streams: Calls that run at the same time, each on a copy of the session of its own.
        keep_memory: Memory that the runtime frees stays with the process; see `toolkit.allocator`.
    """

    threads: int
    device: Device = "cpu"
    streams: int = 1
    keep_memory: bool = False

    @property
    def all_threads(self) -> int:
        """Threads that work at the same time."""
        return self.threads * self.streams


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a session says really runs, read back from the runtime, not from the request.

    `streams` is how many such sessions the worker holds, and runs at the same time; `keep_memory`
    says that the C library took the parameters for it.
    """

    runtime: str
    version: str
    provider: str
    device: Device
    precision: Precision
    threads: int
    streams: int = 1
    keep_memory: bool = False
