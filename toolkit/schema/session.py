"""Records of a session: what is asked of it, and what it says really runs."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.schema.words import Device, Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of a session. `threads` are intra-op threads of one stream; `streams` is how
    many calls run at the same time, each on a copy of the session of its own."""

    threads: int
    device: Device = "cpu"
    streams: int = 1

    @property
    def all_threads(self) -> int:
        """Threads that work at the same time."""
        return self.threads * self.streams


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a session says really runs, read back from the runtime, not from the request.

    `streams` is how many such sessions the worker holds, and runs at the same time.
    """

    runtime: str
    version: str
    provider: str
    device: Device
    precision: Precision
    threads: int
    streams: int = 1
