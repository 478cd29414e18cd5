"""Finalists side by side → which are measured afresh, and which of those is recommended. Pure.

In: entries of the last stage; later the same, measured afresh. Out: entries, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.schema import Constraints
from toolkit.statistics.ranking import contenders, fastest
from toolkit.tuning.pareto import keeps, pareto_set, preferred
from toolkit.tuning.trials import Entry, describe_choice, trial_of


def may_be_taken(entries: Sequence[Entry], wanted: Constraints) -> list[Entry]:
    """Those that keep the constraints, as they were measured last, in their order."""
    return [each for each in entries if keeps(trial_of("", each), wanted)]


def lead(finalists: Sequence[Entry], wanted: Constraints) -> list[Entry]:
    """Who may be the fastest, the highest speed first; marks the Pareto set of all finalists."""
    kept = may_be_taken(finalists, wanted)
    worth = pareto_set([trial_of(str(at), each) for at, each in enumerate(kept)])
    for at, each in enumerate(kept):
        each.pareto = str(at) in worth
    return [kept[at] for at in contenders([each.speeds for each in kept])] if kept else []


def choose(
    leading: Sequence[Entry], finalists: Sequence[Entry], wanted: Constraints
) -> tuple[Entry | None, list[Entry], str]:
    """The entry to recommend, those that may be as fast, and why.

    Those that lead are in the order of the stage before, so that the speeds which are published do
    not choose among equals. Where none of them keeps the constraints any longer, the other
    finalists are next.
    """
    pool = may_be_taken(leading, wanted) or may_be_taken(finalists, wanted)
    if not pool:
        return None, [], "nothing passed and kept the constraints"
    close = [pool[at] for at in fastest([each.speeds for each in pool])]
    best, others = preferred([trial_of(str(at), each) for at, each in enumerate(close)])
    return (
        close[int(best.name)],
        [close[int(each.name)] for each in others],
        describe_choice(best, others),
    )
