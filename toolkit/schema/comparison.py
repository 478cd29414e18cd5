"""Records of a comparison of two runs on one machine, candidate by candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.schema.literals import Status
from toolkit.schema.measurement import Interval
from toolkit.schema.precisions import Precision
from toolkit.schema.session import Settings
from toolkit.schema.shown import Shown

UNDECIDED = 4
"""The exit code of a comparison without a regression but with an undecided row."""

Verdict = Literal[
    "faster",
    "slower",
    "too close to call",
    "undecided",
    "no interval",
    "failed now",
    "failed then",
    "failed in both",
    "only in old",
    "only in new",
]


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One candidate at one batch size with its settings, in the old and the new run.

    `old` and `new` are images/s, `ratio` is new over old (1.0: equal); None if there is none.
    `to_others` is that ratio divided by that of the other rows; None with fewer than four rows.
    `p_value` is that of "the loss is not larger than `fail_below`", relative to the other rows if
    there are enough, corrected for the number of rows (Holm). Each interval is a 95 % interval on
    its own. A status is None if that run has no such candidate; `reason` says why there is no
    ratio, or why the row is undecided. `same_artifact` is whether both ran the same bytes; None if
    only one run has it. `regression` decides the exit code, see
    `toolkit.comparison.compare.compare`.
    """

    name: str
    runtime: str
    format: str
    precision: Precision
    embeds_preprocessing: bool = False
    batch_size: int
    settings: Settings
    old: Interval | None
    new: Interval | None
    ratio: Interval | None
    to_others: Interval | None = None
    p_value: float | None = None
    verdict: Verdict
    reason: str | None
    old_status: Status | None
    new_status: Status | None
    same_artifact: bool | None
    regression: bool


@dataclass(frozen=True, kw_only=True)
class Comparison(Shown):
    """A new run compared with an old one.

    `fail_below` is the share that a loss of speed must be shown to exceed to be a regression
    (-0.03: 3 %). `common` is the ratio of the median row, new over old: the change that all rows
    share; None with fewer than four rows. `limit_share` is the same for the machine's own float32
    limit. `unfit` says why the runs cannot be compared; all rows are then undecided. `machine`
    lists the differences between the machines, each as `fact: old → new`; it is empty if they are
    equal. `changes` lists other differences between the runs.
    """

    old_time: str
    new_time: str
    fail_below: float
    allow_undecided: bool = False
    common: Interval | None = None
    limit_share: float | None = None
    unfit: tuple[str, ...] = ()
    machine: tuple[str, ...]
    changes: tuple[str, ...]
    rows: tuple[ComparedRow, ...]

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        """The candidates that lost speed, or that ran before and now fail."""
        return tuple(row for row in self.rows if row.regression)

    @property
    def undecided(self) -> tuple[ComparedRow, ...]:
        """The candidates for which neither a loss nor its absence is shown."""
        return tuple(row for row in self.rows if row.verdict == "undecided")

    @property
    def judged(self) -> int:
        """The number of candidates that have a ratio with an interval."""
        return sum(row.ratio is not None for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1: a regression. 4: no regression, but an undecided row that is not allowed. 2: nothing
        could be judged, so that nothing passes unnoticed. Otherwise 0."""
        if self.regressions:
            return 1
        if self.undecided and not self.allow_undecided:
            return UNDECIDED
        return 0 if self.judged else 2
