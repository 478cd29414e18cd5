"""The verdict in words: what passed, what is fastest, and what to do next.

In: results. Out: sentences; pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.report.labels import count_of
from toolkit.report.parity import row_name, status_text
from toolkit.schema import EAGER, NO_OP, Measurement, ParityReport, Rank, Results, ScenarioReport
from toolkit.statistics.shares import percent

_DISTURBED = {
    "others": "other programs were at work",
    "load": "other programs were at work",
    "wide": "intervals are wide",
}
Tone = Literal["good", "bad", "open"]
_OUTCOMES = {
    "failed": "failed",
    "undecided": "undecided",
    "unsupported": "not supported",
    "not_installed": "not installed",
    "crashed": "crashed",
    "timed_out": "timed out",
    "out_of_memory": "ran out of memory",
}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Something to do: about which row, why, and what."""

    about: str
    text: str
    action: str


def tone(results: Results) -> Tone:
    """Return `good` if everything passed, `bad` if a verdict failed, otherwise `open`."""
    statuses = {row.status for row in results.parity}
    statuses |= {row.status for row in results.measurements}
    statuses |= {row.status for row in results.scenarios}
    if "failed" in statuses:
        return "bad"
    complete = results.exit_code == 0 and not results.interrupted
    return "good" if results.parity and complete else "open"


def outcome(results: Results) -> str:
    """Return the verdict in a word or two, with a symbol."""
    found = tone(results)
    if not results.parity and found != "bad":
        return "? Not compared"
    statuses = {row.status for row in results.parity}
    if found == "open" and "undecided" in statuses:
        return "? Not decided"
    if found == "open":
        return "? Passed as far as it ran" if "passed" in statuses else "? Nothing ran"
    return "✓ Passed" if found == "good" else "✗ Failed"


def headline(results: Results) -> str:
    """Return the verdict in a sentence: how many rows passed."""
    rows = results.parity
    if not rows:
        return "Nothing was compared with the checkpoint: these results only have speeds."
    passed = [row for row in rows if row.status == "passed"]
    text = f"{len(passed)} of {count_of(len(rows), 'row')} {_agrees(len(passed))}"
    if passed:
        text += f" ({_bound(passed)})"
    others = Counter(row.status for row in rows if row.status != "passed")
    if others:
        text += "; " + ", ".join(
            f"{number} {_OUTCOMES.get(status, status)}" for status, number in others.items()
        )
    return f"{text}."


def _agrees(count: int) -> str:
    return "agrees with your model" if count == 1 else "agree with your model"


def _bound(passed: Sequence[ParityReport]) -> str:
    """Return the flips of the rows that passed, and the largest bound of their rate."""
    flips = [row.flips or 0 for row in passed]
    high = max((row.flip_rate.high for row in passed if row.flip_rate is not None), default=None)
    images = min(row.compared for row in passed)
    several = "up to " if len(set(flips)) > 1 else ""
    text = f"{several}{max(flips):,} of {images:,} decisions differ"
    return text if high is None else f"{text}: at most {percent(high)}"


def fastest(results: Results) -> str | None:
    """Return which row that passed is fastest, and whether the next one may be as fast; None
    without speeds."""
    ranks = _deployable(results)
    if not ranks:
        return None
    first = _best(ranks)
    row = _measured(results)[first.name]
    text = f"Fastest: {first.name}, {first.speed.value:,.0f} images/s"
    if row.to_baseline is not None and results.baseline and row.runtime != results.baseline:
        text += f", {row.to_baseline.value:.2f} times {results.baseline}"
    at = results.ranking.index(first)
    for other in results.ranking[at + 1 : at + 2]:
        if other.too_close and other in ranks:
            text += f"; {other.name} may be as fast"
    return f"{text}."


def safest(results: Results) -> str | None:
    """Return the fastest row that changes no prediction, if the fastest one changes some."""
    ranks = _deployable(results)
    rows = _measured(results)
    kept = [each for each in ranks if _flips_of(results, rows[each.name]) == 0]
    if not kept or _best(ranks) in kept:
        return None
    best = _best(kept)
    return f"Fastest without a changed prediction: {best.name}, {best.speed.value:,.0f} images/s."


def _deployable(results: Results) -> list[Rank]:
    """Return the measured rows that passed verification; all of them if nothing was verified."""
    fit = ("passed",) if results.parity else ("passed", "not compared")
    rows = _measured(results)
    return [
        each
        for each in results.ranking
        if each.name in rows
        and rows[each.name].runtime != NO_OP
        and verdict_of(results, each.name) in fit
    ]


def _best(ranks: Sequence[Rank]) -> Rank:
    return max(ranks, key=lambda each: each.speed.value)


def _measured(results: Results) -> dict[str, Measurement]:
    return {row.name: row for row in results.measurements}


def _flips_of(results: Results, row: Measurement) -> int | None:
    report = _report_of(results, row)
    return None if report is None else report.flips


def provisional(results: Results) -> str | None:
    """Return why the speeds should not be decided on yet; None if they are fit."""
    reasons = ["the run was quick"] if results.quick else []
    reasons += [_DISTURBED[each.code] for each in results.warnings if each.code in _DISTURBED]
    if not results.measurements or not reasons:
        return None
    return f"The speeds are provisional: {' and '.join(dict.fromkeys(reasons))}."


def first_lines(results: Results) -> str:
    """Return the verdict and the fastest row, for the top of a table; empty for results with
    neither."""
    if not results.parity and not results.ranking:
        return ""
    lines = [headline(results) if results.parity else None, fastest(results), safest(results)]
    return "\n".join(line for line in lines if line)


def verdict_of(results: Results, name: str) -> str:
    """Return the parity of a measured row: `passed`, another status, or `not compared`."""
    row = _measured(results).get(name)
    report = None if row is None else _report_of(results, row)
    return "not compared" if report is None else report.status.replace("_", " ")


def _report_of(results: Results, row: Measurement) -> ParityReport | None:
    for report in results.parity:
        if report.runtime == row.runtime and report.artifact_sha256 == row.artifact_sha256:
            return report
    return None


def advice(results: Results) -> list[Advice]:
    """Return what to do next, the most important first."""
    failed = [each for each in results.parity if each.status == "failed"]
    others = [each for each in results.parity if each.status not in ("failed", "passed")]
    return [
        *_about_rows(failed),
        *_about_measurements(results),
        *_about_the_run(results),
        *_about_rows(others),
    ]


def _about_rows(rows: Sequence[ParityReport]) -> Iterator[Advice]:
    for row in rows:
        action = "Do not deploy it before the reason is known."
        text = status_text(row.status, row.reason)
        if row.cause is not None:
            text, action = f"{text}. {row.cause.text}", row.cause.action
        elif row.status == "undecided":
            needed = row.needed_images
            action = "Verify with more images" + (f": about {needed:,}." if needed else ".")
        elif row.status in ("unsupported", "not_installed"):
            action = "Verify it on a system that has it; nothing is known about it here."
        elif row.status != "failed":
            action = "It was not compared, so nothing is known about it."
        yield Advice(about=row_name(row), text=text, action=action)


def _about_measurements(results: Results) -> Iterator[Advice]:
    """Return rows whose timed outputs were wrong, and speeds that were edited."""
    timed: list[Measurement | ScenarioReport] = [*results.measurements, *results.scenarios]
    for row in timed:
        if row.status == "failed":
            yield Advice(
                about=row.name,
                text=status_text(row.status, row.reason),
                action="Do not deploy it before the reason is known.",
            )
    for edited in filter(_contradicts_samples, results.measurements):
        yield Advice(
            about=edited.name,
            text="its speed is not between those of its slowest and its fastest round, so the "
            "file was changed after it was written",
            action="Measure again.",
        )


def _about_the_run(results: Results) -> Iterator[Advice]:
    if results.quick:
        yield Advice(
            about="run",
            text=_about_quick(results),
            action="Repeat it without --quick before you decide.",
        )
    for each in results.warnings:
        yield Advice(about="machine", text=each.message, action=f"{each.action}.")
    if results.interrupted:
        yield Advice(
            about="run", text="interrupted, so rows are missing", action="Repeat the command."
        )


def _about_quick(results: Results) -> str:
    if results.dataset.drawn_from is not None:
        return "quick, on a sample of the images"
    return "quick, with short measurements"


def _contradicts_samples(row: Measurement) -> bool:
    """Return whether a speed cannot follow from the raw samples."""
    rounds = [each for one in row.passes for each in one.rounds if each.calls]
    if row.images_per_s is None or not rounds:
        return False
    speeds = [each.images_per_s(row.batch_size) for each in rounds]
    slack = 1e-6 * max(speeds)
    return not min(speeds) - slack <= row.images_per_s.value <= max(speeds) + slack


def baseline_name(results: Results) -> str:
    """Return the runtime that ratios refer to."""
    return results.baseline or EAGER
