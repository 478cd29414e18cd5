"""The final comparison of a tuning: possible winners and the recommendation; pure functions.

In: entries of the last stage, and later the same entries measured again. Out: entries, and the
reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.schema import Constraints
from toolkit.statistics.ranking import contenders, fastest
from toolkit.tuning.pareto import keeps, pareto_set, preferred
from toolkit.tuning.trials import Entry, describe_choice, trial_of


def may_be_taken(entries: Sequence[Entry], wanted: Constraints) -> list[Entry]:
    """Return the entries that keep the constraints in their last measurement, in order."""
    return [each for each in entries if keeps(trial_of("", each), wanted)]


def lead(finalists: Sequence[Entry], wanted: Constraints) -> list[Entry]:
    """Return the possible winners, the highest speed first; mark the Pareto set of all
    finalists."""
    kept = may_be_taken(finalists, wanted)
    worth = pareto_set([trial_of(str(at), each) for at, each in enumerate(kept)])
    for at, each in enumerate(kept):
        each.pareto = str(at) in worth
    return [kept[at] for at in contenders([each.speeds for each in kept])] if kept else []


def choose(
    leading: Sequence[Entry], finalists: Sequence[Entry], wanted: Constraints
) -> tuple[Entry | None, list[Entry], str]:
    """Return the entry to recommend, those that may be equally fast, and the reason.

    The leading entries are in the order of the stage before, so that the published speeds do not
    choose among equal ones. If none of them keeps the constraints any longer, the other finalists
    are considered.
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
