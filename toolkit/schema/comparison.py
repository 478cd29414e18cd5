"""Records of a comparison with the past: two runs on one machine, candidate by candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.schema.measurement import Interval
from toolkit.schema.session import Settings
from toolkit.schema.words import Precision, Status

Verdict = Literal[
    "faster",
    "slower",
    "too close to call",
    "no interval",
    "failed now",
    "failed then",
    "failed in both",
    "only in old",
    "only in new",
]


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One candidate at one batch size with its settings, then and now.

    `old` and `new` are images/s, `ratio` is new over old (1.0: equal); None where there is none.
    A status is None where that run has no such candidate; `reason` says why there is no ratio.
    `same_artifact` is whether both ran the same bytes; None where only one run has it.
    `regression` is what the exit code goes by, see `toolkit.comparison.compare`.
    """

    name: str
    runtime: str
    format: str
    precision: Precision
    batch_size: int
    settings: Settings
    old: Interval | None
    new: Interval | None
    ratio: Interval | None
    verdict: Verdict
    reason: str | None
    old_status: Status | None
    new_status: Status | None
    same_artifact: bool | None
    regression: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A new run against an old one.

    `fail_below` is the share that a significant loss of speed must exceed to be a regression
    (-0.03: 3 %). `machine` names what differs between the machines, each as `fact: old → new`, and
    is empty where they are alike; `changes` names what else differs between the runs.
    """

    old_time: str
    new_time: str
    fail_below: float
    machine: tuple[str, ...]
    changes: tuple[str, ...]
    rows: tuple[ComparedRow, ...]

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        """The candidates that lost speed, or fail where they ran."""
        return tuple(row for row in self.rows if row.regression)

    @property
    def judged(self) -> int:
        """How many candidates have a ratio with an interval."""
        return sum(row.ratio is not None for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1 a regression; 2 nothing could be judged, so that nothing passes unseen; else 0."""
        if self.regressions:
            return 1
        return 0 if self.judged else 2
