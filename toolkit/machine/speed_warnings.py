"""Warnings about measured speeds: wide intervals, unsteady speed, page faults, cached answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from toolkit.schema import (
    NO_OP,
    MachineWarning,
    Measurement,
    Round,
)
from toolkit.statistics.difference import ERROR_RATE, holm, of_one
from toolkit.statistics.intervals import relative_half_width
from toolkit.statistics.speeds import repeat_shares

_WIDE = 0.05
PAGE_FAULTS = 256  # per call, a megabyte; kept memory has none, PyTorch has thousands
_LOW_CLOCK = 0.8
_FEW_ROUNDS = 0.1
_MOST_NAMED = 3
_CACHED = 1.25  # a cache saves more; repeating one batch in the processor's caches may save a tenth


def judge_speeds(rows: Sequence[Measurement]) -> tuple[MachineWarning, ...]:
    """Return reasons not to trust measured speeds; one warning per kind."""
    real = [row for row in rows if row.runtime != NO_OP and row.status == "measured"]
    found = (
        *(_wide(real), _unsteady(real), _gpu_clock(real), _gpu_slowed(real)),
        *(_paged(real), _cached(real)),
    )
    return tuple(warning for warning in found if warning is not None)


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    left = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "")


def _wide(rows: Sequence[Measurement]) -> MachineWarning | None:
    wide = {
        row.name: relative_half_width(row.images_per_s)
        for row in rows
        if row.images_per_s is not None and relative_half_width(row.images_per_s) > _WIDE
    }
    if not wide:
        return None
    widest = sorted(wide, key=lambda name: -wide[name])
    names = _some([f"{name} ± {wide[name]:.0%}" for name in widest])
    return MachineWarning(
        code="wide",
        message=f"intervals are wide: {names}",
        action="measure longer with `toolkit bench --target-width 2%`, and close other programs",
    )


def _paged(rows: Sequence[Measurement]) -> MachineWarning | None:
    paged = {
        row.name: row.page_faults
        for row in rows
        if (row.page_faults or 0) > PAGE_FAULTS and not row.settings.keep_memory
    }
    if not paged:
        return None
    most = sorted(paged, key=lambda name: -(paged[name] or 0))
    names = _some([f"{name} {paged[name]:,.0f}" for name in most])
    return MachineWarning(
        code="page_faults",
        message=f"memory is returned to the system after each call; page faults per call: {names}",
        action="use `toolkit bench --keep-memory` to measure without this cost "
        "(docs/benchmarking.md explains how to deploy that way)",
    )


def _unsteady(rows: Sequence[Measurement]) -> MachineWarning | None:
    names = []
    for row in rows:
        known = [one.warm_up.steady for one in row.passes if one.warm_up is not None]
        if known.count(False) > len(known) / 2:
            names.append(row.name)
    if not names:
        return None
    return MachineWarning(
        code="unsteady",
        message=f"speed was not steady at the end of the warm-up: {_some(names)}",
        action="close other programs; measure longer with `toolkit bench --min-time 20`",
    )


def _gpu_clock(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Return rows with many rounds that began while the GPU clock was low."""
    low = {}
    for row in rows:
        clocks = [_clocks(each) for one in row.passes for each in one.rounds if each.gpu]
        known = [(before, within) for before, within in clocks if before and within]
        usual = median(within for _, within in known) if known else 0.0
        slow = [before for before, _ in known if before < _LOW_CLOCK * usual]
        if len(slow) > _FEW_ROUNDS * len(known):
            low[row.name] = (
                f"{len(slow)} of {len(known)} rounds, from {min(slow) / 1e9:.2f} of "
                f"{usual / 1e9:.2f} GHz"
            )
    if not low:
        return None
    return MachineWarning(
        code="gpu_clock",
        message="the clock of the GPU was low when rounds began: "
        + ", ".join(f"{name} {text}" for name, text in low.items()),
        action="`sudo nvidia-smi --lock-gpu-clocks=<MHz>`, and"
        " `sudo nvidia-smi --reset-gpu-clocks` afterwards",
    )


def _clocks(found: Round) -> tuple[float | None, float | None]:
    """Return the clock before the round, and the highest clock in it or just after it."""
    before, *rest = found.gpu
    return before.clock_hz, max((each.clock_hz for each in rest if each.clock_hz), default=None)


def _gpu_slowed(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Return rows whose rounds ran while the GPU was slowed down, with the reasons."""
    slowed = {}
    for row in rows:
        rounds = [each for one in row.passes for each in one.rounds if each.gpu]
        reasons = [
            {reason for state in each.gpu[1:] for reason in state.slowed_by or ()}
            for each in rounds
        ]
        count = sum(map(bool, reasons))
        if count > _FEW_ROUNDS * len(rounds):
            words = ", ".join(sorted(set().union(*reasons)))
            slowed[row.name] = f"{count} of {len(rounds)} rounds ({words})"
    if not slowed:
        return None
    return MachineWarning(
        code="gpu_slowed",
        message="the GPU was slowed down in the rounds: "
        + ", ".join(f"{name} {text}" for name, text in slowed.items()),
        action="heat: improve its cooling; power limit: raise it (`sudo nvidia-smi "
        "--power-limit=<W>`), or take the speeds as those of this limit",
    )


def _cached(rows: Sequence[Measurement]) -> MachineWarning | None:
    """Find rows that are shown to be faster on a repeated input; one error rate for all rows."""
    known = {row.name: shares for row in rows if len(shares := repeat_shares(row.passes)) > 1}
    p_values = holm([of_one(shares).p_less(1 / _CACHED) for shares in known.values()])
    found = {
        name: 1 / mean(shares)
        for (name, shares), p_value in zip(known.items(), p_values, strict=True)
        if p_value <= ERROR_RATE
    }
    if not found:
        return None
    names = ", ".join(f"{name} {ratio:.2f} times" for name, ratio in found.items())
    return MachineWarning(
        code="cached",
        message=f"a repeated input is answered faster than rotating inputs: {names}; answers "
        "may come from a cache",
        action="switch off the runtime's cache: the measured speed does not apply to new images",
    )
