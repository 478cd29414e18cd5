"""Records of a gate: whether a new run may replace an old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.schema.comparison import UNDECIDED, Comparison
from toolkit.schema.shown import Shown

GateKind = Literal["parity", "speed"]
GateOutcome = Literal["passed", "failed", "undecided", "not run"]


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """The outcome of one candidate. `reason` says why it did not pass, or what changed; None if
    there is nothing to say. `changed` says that it differs from the old run."""

    kind: GateKind
    name: str
    outcome: GateOutcome
    reason: str | None = None
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Gate(Shown):
    """The verdicts of parity and speed of a new run, together.

    `headline` says how many rows compute the model. `comparison` has the speeds of both runs.
    """

    headline: str
    rows: tuple[GateRow, ...]
    comparison: Comparison

    @property
    def exit_code(self) -> int:
        """1: a row failed. 3: a row of the new run could not be run. 4: undecided. 2: nothing could
        be judged. Otherwise 0."""
        outcomes = {row.outcome for row in self.rows}
        if "failed" in outcomes:
            return 1
        if "not run" in outcomes:
            return 3
        if "undecided" in outcomes:
            return UNDECIDED
        return self.comparison.exit_code
