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
from toolkit.schema import EAGER, NO_OP, Measurement, ParityReport, Results
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
    if "failed" in statuses:
        return "bad"
    return "good" if results.exit_code == 0 and not results.interrupted else "open"


def outcome(results: Results) -> str:
    """Return the verdict in a word or two, with a symbol."""
    if not results.parity:
        return "? Not compared"
    found = tone(results)
    statuses = {row.status for row in results.parity}
    if found == "open" and "undecided" in statuses:
        return "? Not decided"
    if found == "open":
        return "? Passed as far as it ran" if "passed" in statuses else "? Nothing ran"
    return "✓ Passed" if found == "good" else "✗ Failed"


def headline(results: Results) -> str:
    """Return the verdict in a sentence: how many rows compute the checkpoint's decisions."""
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
    """Return which row that passed is fastest, and what is too close to call; None without
    speeds."""
    ranking = [each for each in results.ranking if not _failed(results, each.name)]
    rows = {row.name: row for row in results.measurements}
    ranking = [each for each in ranking if each.name in rows and rows[each.name].runtime != NO_OP]
    if not ranking:
        return None
    first, *others = ranking
    text = f"Fastest: {first.name}, {first.speed.value:,.0f} images/s"
    ratio = rows[first.name].to_baseline
    if ratio is not None and results.baseline and rows[first.name].runtime != results.baseline:
        text += f", {ratio.value:.2f} times {results.baseline}"
    close = [each.name for each in others[:1] if each.too_close]
    if close:
        text += f"; {close[0]} may be as fast"
    return f"{text}."


def safest(results: Results) -> str | None:
    """Return the fastest row that changes no prediction, if the fastest one changes some."""
    unchanged = {
        (row.runtime, row.artifact_sha256)
        for row in results.parity
        if row.status == "passed" and row.flips == 0
    }
    rows = {row.name: row for row in results.measurements}
    passed = [each for each in results.ranking if not _failed(results, each.name)]
    real = [each for each in passed if each.name in rows and rows[each.name].runtime != NO_OP]
    kept = [
        each
        for each in real
        if (rows[each.name].runtime, rows[each.name].artifact_sha256) in unchanged
    ]
    if not kept or kept[0] == real[0]:
        return None
    return (
        f"Fastest without a changed prediction: {kept[0].name}, "
        f"{kept[0].speed.value:,.0f} images/s."
    )


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
    for row in results.measurements:
        if row.name == name:
            return _parity_of(results, row)
    return "not compared"


def _parity_of(results: Results, row: Measurement) -> str:
    for report in results.parity:
        if report.runtime == row.runtime and report.artifact_sha256 == row.artifact_sha256:
            return report.status.replace("_", " ")
    return "not compared"


def _failed(results: Results, name: str) -> bool:
    return verdict_of(results, name) not in ("passed", "not compared")


def advice(results: Results) -> list[Advice]:
    """Return what to do next, the most important first."""
    failed = [each for each in results.parity if each.status == "failed"]
    others = [each for each in results.parity if each.status not in ("failed", "passed")]
    return [*_about_rows(failed), *_about_the_run(results), *_about_rows(others)]


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


def _about_the_run(results: Results) -> Iterator[Advice]:
    for row in results.measurements:
        if _contradicts_samples(row):
            yield Advice(
                about=row.name,
                text="its speed is not between those of its slowest and its fastest round, so the "
                "file was changed after it was written",
                action="Measure again.",
            )
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
