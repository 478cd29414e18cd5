"""Regression tests: the passes of all rows in two runs → rows that lost speed; pure functions.

In: the logarithms of the passes' speeds, old and new, for each row. Out: a `Finding` for each row,
and the change that all rows share.

The speed of a machine changes from day to day. No interval of a single row shows that, but it
affects all rows. So each row is judged by its speed relative to the other rows: in each pass, the
median of the other rows says how fast the machine was. A row lost speed if it lost relative to the
others and relative to its own past. All rows share one error rate (Holm).

With fewer than three other rows, a change of the machine cannot be told from a change of the row.
Then only a loss larger than the usual drift of a machine counts, and a smaller one is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Literal

from toolkit.schema import Interval
from toolkit.statistics.difference import ERROR_RATE, Difference, holm, of_two

DRIFT = 1.1  # a machine whose speed changed by more is in another state, in which rows differ
LEAST_OTHERS = 3  # the median of fewer follows a single one that changed

_MAD_TO_SIGMA = 1.4826  # for normal values
_NOTABLE = 2  # times the variance that passes explain; rare enough by chance to cost no power
Logs = Sequence[float | None]
Call = Literal["faster", "slower", "too close to call", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One row: the logarithm of each pass's speed in both runs, None if a pass gave nothing. Rows
    of the same `table` took turns with each other."""

    old: Logs
    new: Logs
    table: Hashable

    def difference(self) -> Difference:
        """Return new minus old.

        Raises:
            ValueError: Fewer than 2 passes in either run.
        """
        return of_two(_known(self.new), _known(self.old))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding for one row. `to_others` is its ratio divided by that of the other rows; None
    with fewer than three. `p_value` is that of "its loss is no larger than the limit", corrected
    for the number of rows. `reason` says why it is undecided."""

    to_others: Interval | None
    p_value: float
    call: Call
    regression: bool
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the tests show about one row, corrected for all rows. `ratio` is new over old. `lost`
    says that its loss relative to the others exceeds the limit; `own_loss`, that its loss relative
    to its own past does. `slower` and `faster` are about any difference from the others."""

    ratio: float
    p_value: float
    lost: bool
    own_loss: bool
    slower: bool
    faster: bool


def find_regressions(
    pairs: Sequence[Pair], *, limit: float, unfit: str | None = None
) -> tuple[list[Finding], Interval | None]:
    """Judge each row, and return the change that all rows share; None with fewer than four rows.

    Args:
        pairs: Rows with at least 2 passes in each run.
        limit: The ratio below which a loss counts, such as 0.97.
        unfit: Why the two runs cannot be compared; None if they can.
    """
    own = [pair.difference() for pair in pairs]
    relative = [_relative(pair, _others(pair, pairs)) for pair in pairs]
    shared, common = _common(pairs), None
    if shared is None:
        shown = _tested(own, relative, limit)
        found = [_of_few(each, limit, alone=len(pairs) == 1) for each in shown]
    else:
        relative, common = _with_scatter(relative), shared.interval()
        together = shared.p_below(limit) <= ERROR_RATE
        shown = _tested(own, relative, limit)
        found = [_among_others(each, limit, shared_change(common), together) for each in shown]
        if unfit is None and not 1 / DRIFT <= common.value <= DRIFT:
            unfit = f"{shared_change(common)}: the machine was in another state"
    findings = [
        Finding(
            to_others=None if common is None or each is None else each.interval(),
            p_value=one.p_value,
            call=call if unfit is None else "undecided",
            regression=regression and unfit is None,
            reason=unfit or reason,
        )
        for one, each, (call, regression, reason) in zip(shown, relative, found, strict=True)
    ]
    return findings, common


def shared_change(common: Interval) -> str:
    """Return the change that all rows share as text, such as `all rows are 8 % slower`."""
    return f"all rows are {abs(common.value - 1):.1%} {'slower' if common.value < 1 else 'faster'}"


def _tested(
    own: Sequence[Difference], relative: Sequence[Difference | None], limit: float
) -> list[_Shown]:
    """Test all rows; each claim is corrected for the number of rows."""
    decisive = [other or alone for other, alone in zip(relative, own, strict=True)]
    p_values = holm([each.p_below(limit) for each in decisive])
    own_losses = holm([each.p_below(limit) for each in own])
    slower = holm([2 * each.p_below(1) for each in decisive])  # one of the two is the claim
    faster = holm([2 * each.p_above(1) for each in decisive])
    return [
        _Shown(
            ratio=each.interval().value,
            p_value=p_values[row],
            lost=p_values[row] <= ERROR_RATE,
            own_loss=own_losses[row] <= ERROR_RATE,
            slower=slower[row] <= ERROR_RATE,
            faster=faster[row] <= ERROR_RATE,
        )
        for row, each in enumerate(own)
    ]


def _among_others(
    shown: _Shown, limit: float, change: str, together: bool
) -> tuple[Call, bool, str | None]:
    """Return the verdict, whether it is a regression, and why it is undecided, for four or more
    rows. `together` says that all rows lost more than the limit."""
    if shown.lost and shown.ratio < limit:
        return "slower", True, None
    if shown.lost:
        return (
            "undecided",
            False,
            (f"slower relative to the other rows, but not relative to its past; {change}"),
        )
    if shown.own_loss or (together and shown.ratio < limit):
        return (
            "undecided",
            False,
            (f"slower relative to its past, but not relative to the other rows; {change}"),
        )
    if shown.slower and shown.ratio < 1:
        return "slower", False, None
    if shown.faster and shown.ratio > 1:
        return "faster", False, None
    return "too close to call", False, None


def _of_few(shown: _Shown, limit: float, *, alone: bool) -> tuple[Call, bool, str | None]:
    """The same for fewer than four rows."""
    if shown.own_loss and shown.lost and shown.ratio < min(limit, 1 / DRIFT):
        return "slower", True, None
    if shown.own_loss and shown.lost:
        rows = "one row alone cannot" if alone else "so few rows cannot"
        return "undecided", False, f"{rows} tell such a loss from a change of the machine"
    if shown.own_loss:
        return "undecided", False, "slower relative to its past, but not relative to the other rows"
    if shown.slower and shown.ratio < 1 / DRIFT:
        return "slower", False, None
    if shown.faster and shown.ratio > DRIFT:
        return "faster", False, None
    return "too close to call", False, None


def _others(pair: Pair, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the rows that show how fast the machine was: those of the same table, if they are
    enough."""
    others = [each for each in pairs if each is not pair]
    near = [each for each in others if each.table == pair.table]
    return near if len(near) >= LEAST_OTHERS else others


def _relative(pair: Pair, others: Sequence[Pair]) -> Difference | None:
    """Return the row's difference after removing from each pass the speed of the machine, as shown
    by the others; None if too few passes have other rows."""
    sides = []
    for which in ("new", "old"):
        logs = _side(pair, which)
        machine = _machine(others, which)
        sides.append(
            [
                log - speed
                for log, speed in zip(logs, machine, strict=False)
                if log is not None and speed is not None
            ]
        )
    new, old = sides
    return of_two(new, old) if min(len(new), len(old)) > 1 else None


def _with_scatter(relative: Sequence[Difference | None]) -> list[Difference | None]:
    """Widen the error by the scatter between runs that the passes do not explain, as seen on the
    other rows. A state of the machine that affects one runtime for half a run is not a change of
    that runtime."""
    found = list(relative)
    for row, own in enumerate(relative):
        others = [each for each in relative if each is not None and each is not own]
        if own is None or len(others) < LEAST_OTHERS:
            continue
        middle = median(each.centre for each in others)
        spread = _MAD_TO_SIGMA * median(abs(each.centre - middle) for each in others)
        expected = median(each.error**2 for each in others)
        if spread**2 > _NOTABLE * expected:
            found[row] = replace(
                own,
                error=math.sqrt(own.error**2 + spread**2 - expected),
                freedom=min(own.freedom, len(others) - 1),
            )
    return found


def _common(pairs: Sequence[Pair]) -> Difference | None:
    """Return new minus old of the median row; None with fewer than four paired rows."""
    new, old = (_known(_machine(pairs, which)) for which in ("new", "old"))
    enough = len(pairs) > LEAST_OTHERS and min(len(new), len(old)) > 1
    return of_two(new, old) if enough else None


def _machine(pairs: Sequence[Pair], which: str) -> list[float | None]:
    """Return how much faster each pass of one run was than usual: the median over rows, None if too
    few rows have that pass. Usual is a row's middle between the runs, so that neither run is
    favoured."""
    least = min(LEAST_OTHERS, len(pairs))
    usual = [(mean(_known(pair.new)) + mean(_known(pair.old))) / 2 for pair in pairs]
    sides = [_side(pair, which) for pair in pairs]
    found: list[float | None] = []
    for number in range(max(map(len, sides), default=0)):
        values = [
            log - level
            for logs, level in zip(sides, usual, strict=True)
            if number < len(logs) and (log := logs[number]) is not None
        ]
        found.append(median(values) if len(values) >= least else None)
    return found


def _side(pair: Pair, which: str) -> Logs:
    return pair.new if which == "new" else pair.old


def _known(logs: Logs) -> list[float]:
    return [log for log in logs if log is not None]
