"""The search through one parser: damaged content until the time is over.

In: the name of a target. Out: its counts. hypothesis makes a finding as small as it can.
"""

from __future__ import annotations

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from toolkit.timing import Stopwatch

from .apart import Apart
from .counts import FINDINGS, Counts
from .parsers import TARGETS

_EXAMPLES = 200  # of one round; the next round has another seed
_MOST_FINDINGS = 5


class Found(Exception):  # noqa: N818 - it is what the search looks for
    """A finding, for hypothesis."""


def search(target: str, *, seed: int, seconds: float, timeout_s: float) -> Counts:
    """Give a parser damaged content for some seconds; the same seed gives the same content."""
    counts = Counts(target=target)
    with Apart(TARGETS[target], timeout_s=timeout_s) as apart:
        answer = apart.read(apart.healthy)
        if answer.fate != "accepted":
            counts.add("driver crash", f"the healthy content is not accepted: {answer.text}")
            return counts
        watch = Stopwatch()
        while watch.elapsed_s() < seconds and len(counts.findings) < _MOST_FINDINGS:
            found = _round(apart, counts, seed=seed, watch=watch, seconds=seconds)
            if found:
                counts.findings.append(found)
            seed += 1
    return counts


def _round(
    apart: Apart, counts: Counts, *, seed: int, watch: Stopwatch, seconds: float
) -> str | None:
    """Return the smallest finding of one round, if there is one."""
    smallest = None

    @hypothesis.seed(seed)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=TARGETS[counts.target].damaged(apart.healthy))
    def once(content: bytes) -> None:
        nonlocal smallest
        if watch.elapsed_s() > seconds and smallest is None:
            return
        answer = apart.read(content)
        if smallest is None:
            counts.fates[answer.fate] += 1
        if answer.fate in FINDINGS:
            smallest = f"{answer.fate} on {content[:300]!r} (seed {seed}): {answer.text}"
            raise Found(answer.text.strip().splitlines()[-1])

    try:
        once()
    except (Found, ExceptionGroup, hypothesis.errors.Flaky):
        return smallest
    return None
