"""Records of a case and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.schema import Precision

if TYPE_CHECKING:
    from .beds import Bed

Level = Literal["file", "runtime", "checkpoint", "data", "healthy"]
Build = Callable[["Bed", Path], None]
"""Writes an artifact to a path: a changed copy, or an export of a changed model."""

PASSED = frozenset({"passed"})
_UNSTEADY = "not repeatable"
CAUGHT = frozenset({"failed", "crashed", "unsupported", "timed_out", "refused"})
UNDECIDED = frozenset({"undecided"})
NOT_FAILED = frozenset({"passed", "undecided"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One artifact that is judged against a healthy checkpoint.

    Attributes:
        name: Says what is wrong with the artifact, or what is unusual about it.
        build: Writes the artifact.
        bed: The checkpoint and the images; a name from `beds.BEDS`.
        runtime: The runtime that runs the artifact.
        expect: Correct statuses; `refused` is an error before anything ran.
        cause: Correct kinds of `Cause`; empty if the numbers do not show a cause.
        moves: Whether a logit moves by more than 20 noise floors, or an answer changes.
        short: Whether it is part of the short version, which runs in the test command.
        batch_size: Images per call.
    """

    name: str
    level: Level
    build: Build
    bed: str = "mnist"
    format: str = "onnx"
    precision: Precision = "fp32"
    runtime: str = "onnxruntime"
    expect: frozenset[str] = CAUGHT
    cause: frozenset[str] = frozenset()
    moves: bool = True
    short: bool = False
    batch_size: int = 100
    threads: int = 1
    options: dict[str, float] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether it must not fail."""
        return self.level == "healthy"

    @property
    def slug(self) -> str:
        """The name of its file, without a suffix."""
        return "".join(each if each.isalnum() else "-" for each in self.name.lower())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The verifier's verdict on a case.

    `status` is that of the row, `refused` if verify raised an error, or `not built`. `cause` is the
    kind that the row names; for an error, the word of `Case.cause` in its message.
    """

    case: Case
    status: str
    reason: str = ""
    flips: int | None = None
    floors: float | None = None
    difference: float | None = None
    cause: str | None = None
    cause_text: str = ""

    @property
    def right(self) -> bool:
        """Whether the status is one of those expected."""
        return self.status in self.case.expect

    @property
    def named_wrongly(self) -> bool:
        """Whether it names a wrong cause."""
        return self.cause is not None and not self.named

    @property
    def named(self) -> bool:
        """Whether it names the right cause."""
        if self.cause == _UNSTEADY and self.case.level == "runtime":
            return bool(self.case.cause)  # true for all runtimes that keep a state between calls
        return self.cause in self.case.cause or (
            self.cause == _UNSTEADY and "random" in self.case.cause
        )
