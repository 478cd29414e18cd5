"""Handmade finalists: which are measured again, and which of them is recommended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from samples import PASSED, tally

from toolkit.errors import Crashed
from toolkit.schema import Constraints
from toolkit.tuning.finals import choose, lead, may_be_taken
from toolkit.tuning.trials import Entry

ANY = Constraints()
SPREAD = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98)


def entry(name: str, call_s: float, *, flips: int = 0) -> Entry:
    """A finalist that passed, with six passes in its own order."""
    shift = len(name)
    found = tally(name, *(call_s * factor for factor in (*SPREAD[shift:], *SPREAD[:shift])))
    report = replace(PASSED, flips=flips)
    return Entry(candidate=found.candidate, tally=found, stage=3, report=report)


def measured_again(entries: Sequence[Entry], *calls_s: float) -> None:
    for each, call_s in zip(entries, calls_s, strict=True):
        each.tally = entry(each.candidate.runtime.name, call_s).tally


def test_possible_winners_and_the_runner_up_are_measured_again() -> None:
    far, slow = entry("a", 0.4), entry("bc", 0.2)
    fast, close = entry("def", 0.1), entry("ghij", 0.1001)
    assert lead([far, slow, fast, close], ANY) == [fast, close]
    assert lead([slow, far], ANY) == [slow, far]
    assert lead([], ANY) == []


def test_pareto_set_comes_from_the_interleaved_stage() -> None:
    slow, fast = entry("slow", 0.2), entry("fast", 0.1)
    lead([slow, fast], ANY)
    assert (slow.pareto, fast.pareto) == (False, True)


def test_new_passes_decide_and_ties_keep_the_earlier_order() -> None:
    first, second = entry("a", 0.1), entry("bcd", 0.101)
    leading = lead([first, second], ANY)
    assert leading == [first, second]
    measured_again(leading, 0.1, 0.0999)
    assert choose(leading, [first, second], ANY)[:2] == (first, [second])
    measured_again(leading, 0.1, 0.05)
    best, close, why = choose(leading, [first, second], ANY)
    assert (best, close) == (second, [])
    assert why.startswith("the fastest configuration that passes verification")


def test_tie_is_decided_by_fewest_flips() -> None:
    exact, fast = entry("abc", 0.101), entry("f", 0.1, flips=3)
    best, close, why = choose(lead([exact, fast], ANY), [exact, fast], ANY)
    assert (best, close) == (exact, [fast])
    assert why.startswith("among the fastest, which are too close to call")


def test_failure_in_the_new_measurement_promotes_the_next() -> None:
    fast, second, third = entry("fast", 0.1), entry("second", 0.15), entry("third", 0.2)
    finalists = [fast, second, third]
    leading = lead(finalists, ANY)
    assert leading == [fast, second]
    fast.tally.failure = Crashed("SIGSEGV")
    assert choose(leading, finalists, ANY)[0] is second
    second.tally.failure = Crashed("SIGSEGV")
    assert choose(leading, finalists, ANY)[0] is third
    third.tally.failure = Crashed("SIGSEGV")
    assert choose(leading, finalists, ANY) == (None, [], "nothing passed and kept the constraints")


def test_constraints_apply_to_the_new_passes() -> None:
    wanted = Constraints(max_latency_s=0.12)
    fast, second = entry("fast", 0.1), entry("second", 0.11)
    leading = lead([fast, second], wanted)
    measured_again(leading, 0.15, 0.11)
    assert may_be_taken(leading, wanted) == [second]
    assert choose(leading, [fast, second], wanted)[0] is second
