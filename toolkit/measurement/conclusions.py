"""Conclusions: the readings of all passes → speeds, ratios, ranks, warnings.

In: tallies after any pass. Out: `Results` with the values derived from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from toolkit.machine.fitness import judge, judge_artifacts
from toolkit.machine.interference import combined
from toolkit.machine.speed_warnings import judge_speeds
from toolkit.measurement.passes import Passes, Tally
from toolkit.report.labels import distinct, facts_of
from toolkit.schema import Interval, Limits, MachineWarning, Measurement, Rank, Results, Status
from toolkit.sessions.candidates import EAGER, NO_OP
from toolkit.statistics.ranking import rank
from toolkit.statistics.speeds import (
    call_outliers,
    latencies,
    page_faults,
    repeat_ratio,
    speed_ratio,
    speeds_of,
)


def conclude(results: Results, passes: Passes, *, baseline: str | None) -> Results:
    """Return `results` with the measurements so far.

    `baseline` is the runtime to compare the others with; None is eager if it is measured, else the
    first.
    """
    tallies = passes.tallies
    baseline = baseline or _default_baseline(tallies)
    rows = tuple(
        _measurement(name, tally, _baseline_of(tally, tallies, baseline), results)
        for name, tally in zip(distinct_names(tallies), tallies, strict=True)
    )
    threads = max(each.candidate.settings.all_threads for each in tallies)
    interference = combined(passes.interference)
    warnings = judge(results.environment, threads=threads, interference=interference)
    inexact = judge_artifacts(
        results.environment, [each.candidate.source.artifact for each in tallies]
    )
    stopped = (_stopped(passes),) if passes.stopped else ()
    return replace(
        results,
        interference=tuple(passes.interference),
        warnings=(*stopped, *inexact, *warnings, *judge_speeds(rows)),
        measurements=rows,
        baseline=baseline,
        ranking=_ranking(rows),
    )


def _stopped(passes: Passes) -> MachineWarning:
    done = max(len(tally.passes) for tally in passes.tallies)
    wanted = f"{passes.plan.least_passes} passes"
    if passes.plan.target_width is not None:
        wanted += f" and ± {passes.plan.target_width:.1%}"
    return MachineWarning(
        code="stopped",
        message=f"the time limit of {passes.plan.max_time_s:g} s ended the measurement after "
        f"{done} of {wanted}",
        action=f"allow more time with `toolkit bench --max-time {2 * passes.plan.max_time_s:g}`",
    )


def distinct_names(tallies: Sequence[Tally]) -> list[str]:
    """Return a name for each; see `toolkit.report.labels`."""
    return distinct(
        [
            facts_of(
                tally.candidate.runtime.name,
                tally.candidate.source.artifact.precision,
                tally.candidate.source.artifact.format,
                tally.batch_size,
                tally.candidate.settings,
                uint8=tally.candidate.source.artifact.embeds_preprocessing,
            )
            for tally in tallies
        ]
    )


def _default_baseline(tallies: Sequence[Tally]) -> str | None:
    """Return the default baseline; None if there is nothing to compare."""
    known = [name for tally in tallies if (name := tally.candidate.runtime.name) != NO_OP]
    if len(known) < 2:
        return None
    return EAGER if EAGER in known else known[0]


def _baseline_of(tally: Tally, tallies: Sequence[Tally], baseline: str | None) -> Tally | None:
    """Return the baseline of a candidate: the one with its settings and batch size; None if there
    is no other candidate."""
    same = [
        other
        for other in tallies
        if other.candidate.runtime.name != NO_OP and other.table == tally.table
    ]
    found = [other for other in same if other.candidate.runtime.name == baseline]
    return found[0] if found and len(same) > 1 else None


def _measurement(name: str, tally: Tally, baseline: Tally | None, results: Results) -> Measurement:
    """Return the row; a failed one keeps its rounds but claims nothing."""
    candidate, passes, failure = tally.candidate, tally.passes, tally.failure
    artifact = candidate.source.artifact
    speed, real = tally.throughput(), candidate.runtime.name != NO_OP
    status, reason = _status(tally)
    return Measurement(
        name=name,
        runtime=candidate.runtime.name,
        format=artifact.format,
        precision=artifact.precision,
        embeds_preprocessing=artifact.embeds_preprocessing,
        batch_size=tally.batch_size,
        settings=candidate.settings,
        status=status,
        reason=reason,
        images_per_s=speed,
        to_baseline=_to_baseline(tally, baseline) if real else None,
        repeat_ratio=repeat_ratio(passes) if speed and real else None,
        limit_share=_limit_share(speed, tally, results) if real else None,
        latency_s=() if failure else latencies(passes),
        outliers=None if failure else call_outliers(passes),
        page_faults=None if failure else page_faults(passes),
        import_s=passes[0].import_s if passes else None,
        load_s=passes[0].load_s if passes else None,
        first_inference_s=passes[0].first_inference_s if passes else None,
        peak_memory_bytes=max(
            (each.peak_memory_bytes for each in passes if each.peak_memory_bytes), default=None
        ),
        artifact_size_bytes=artifact.size_bytes,
        artifact_sha256=artifact.sha256,
        session=tally.attestation,
        passes=tuple(passes),
        stderr_tail=failure.stderr_tail if failure else "",
    )


def _to_baseline(tally: Tally, baseline: Tally | None) -> Interval | None:
    """Return the ratio to the baseline: exactly 1 for the baseline itself; None if one of the two
    cannot be measured."""
    if baseline is None or any(each.throughput() is None for each in (tally, baseline)):
        return None
    if tally is baseline:
        return Interval(value=1.0, low=1.0, high=1.0, passes=len(tally.passes))
    return speed_ratio(tally.passes, baseline.passes)


def _status(tally: Tally) -> tuple[Status, str | None]:
    if tally.failure is not None:
        return tally.failure.status, tally.failure.reason
    if tally.throughput() is None:
        rounds = sum(len(each.rounds) for each in tally.passes)
        return "too_short", (
            f"{rounds} rounds are too few for an interval; allow more time with "
            "`toolkit bench --max-time`"
        )
    return "measured", None


def _limit_share(speed: Interval | None, tally: Tally, results: Results) -> float | None:
    limit = None if results.limits is None else _limit_of(tally, results.limits)
    if speed is None or limit is None or results.flops_per_image is None:
        return None
    return speed.value * results.flops_per_image / limit


def _limit_of(tally: Tally, limits: Limits) -> float | None:
    """Return the largest FLOP/s of the device. On a GPU this depends on the arithmetic that the
    session attests: the limit of tensor cores is ten times that of float32."""
    if tally.candidate.settings.device == "cpu":
        return limits.float32_flops_per_s
    if limits.gpu is None or tally.attestation is None:
        return None
    return limits.gpu.flops_per_s(tally.attestation.arithmetic)


def _ranking(rows: Sequence[Measurement]) -> tuple[Rank, ...]:
    """Return ranks among candidates with the same batch size and settings."""
    real = [row for row in rows if row.runtime != NO_OP and row.status == "measured"]
    ranks: list[Rank] = []
    for table in dict.fromkeys((row.settings, row.batch_size) for row in real):
        same = [row for row in real if (row.settings, row.batch_size) == table]
        ranks += rank({row.name: speeds_of(row.passes, row.batch_size) for row in same})
    return tuple(ranks)
