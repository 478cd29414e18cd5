"""A tuning as a table: the Pareto set, the baseline, rejected configurations, and the
recommendation."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.report.labels import count_of, images_of, kind_of
from toolkit.report.numbers import interval_text
from toolkit.report.parity import status_text
from toolkit.report.table import aligned
from toolkit.schema import FINAL_STAGE, REMEASURED_STAGE, Settings, Trial, Tuning

_HEADINGS = (
    *("", "runtime", "format", "precision", "threads", "streams", "memory", "images/s [95 %]"),
    *("x eager [95 %]", "ms per call", "size MB", "accuracy", "flips"),
)


def render_tuning(tuning: Tuning) -> str:
    """Return the tuning as aligned text."""
    headings, rows, numeric = tuning_cells(tuning)
    return "\n".join([aligned(headings, rows, numeric=numeric), *tuning_notes(tuning)])


def tuning_cells(tuning: Tuning) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, the cells of the configurations that reached the end, the fastest first, and
    which columns are numeric."""
    shown = [each for each in tuning.trials if each.stage >= FINAL_STAGE or tuning.interrupted]
    shown.sort(key=lambda each: -each.images_per_s.value if each.images_per_s else 0.0)
    numeric = [heading not in (*_HEADINGS[:4], "memory") for heading in _HEADINGS]
    return list(_HEADINGS), [_cells(each, tuning) for each in shown], numeric


def _cells(trial: Trial, tuning: Tuning) -> list[str]:
    own = trial.configuration
    role = "Pareto" if trial.pareto else ""
    if trial.name == tuning.recommended:
        role = "recommended"
    elif trial.name == tuning.baseline:
        role = "baseline"
    return [
        *(role, own.runtime, own.format),
        kind_of(own.precision, uint8=own.embeds_preprocessing),
        *(str(own.settings.threads), str(own.settings.streams)),
        "kept" if own.settings.keep_memory else "",
        interval_text(trial.images_per_s, "{:,.0f}"),
        "1" if trial.name == tuning.baseline else interval_text(trial.to_baseline, "{:.2f}"),
        "" if trial.latency_s is None else f"{trial.latency_s * 1e3:.2f}",
        f"{trial.size_bytes / 1e6:.2f}",
        "" if trial.accuracy is None else f"{trial.accuracy:.2%}",
        "" if trial.flips is None else str(trial.flips),
    ]


def tuning_notes(tuning: Tuning) -> list[str]:
    """Return the notes below the table, one sentence each."""
    batch_size = tuning.trials[0].configuration.batch_size
    lines = [
        f"Tried {len(tuning.trials)} configurations in {tuning.wall_s:.0f} s with batches of "
        f"{batch_size} images: {_fates(tuning.trials)}."
    ]
    afresh = [each.name for each in tuning.trials if each.stage == REMEASURED_STAGE]
    if afresh:
        lines.append(
            f"The speeds of {', '.join(afresh)} come from new passes, not from those that "
            "selected them."
        )
    if tuning.recommended is not None:
        best = tuning.trial(tuning.recommended).configuration
        lines += [
            f"Recommended: {best.artifact_path} in {best.runtime}, {_settings(best.settings)}.",
            f"Why: {tuning.why}.",
            f"Confidence: {tuning.confidence}.",
        ]
    else:
        lines.append(f"No recommendation: {tuning.why}.")
    lines += [
        f"Left out: {each.name}: {status_text(each.status, each.reason)}."
        for each in tuning.trials
        if each.status not in (None, "passed")
    ]
    lines += [f"Warning: {each.message} → {each.action}." for each in tuning.warnings]
    if tuning.quick:
        lines.append(
            f"Quick: {images_of(tuning.dataset)} were compared, and the finalists were measured "
            "for a short time. Repeat without --quick before you decide."
        )
    if tuning.interrupted:
        lines.append("Interrupted: these results are valid but incomplete.")
    return lines


def _fates(trials: Sequence[Trial]) -> str:
    """Return how many configurations reached each stage."""
    single = sum(each.stage == 1 for each in trials)
    last = sum(each.stage >= FINAL_STAGE for each in trials)
    return (
        f"{single} with one thread, {len(trials) - single} on all cores, {last} in the "
        "final comparison"
    )


def _settings(settings: Settings) -> str:
    kept = ", memory kept" if settings.keep_memory else ""
    threads, streams = count_of(settings.threads, "thread"), count_of(settings.streams, "stream")
    return f"{threads}, {streams}{kept}"
