"""Sentences below a table: what the reader should know about the results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from toolkit.report.labels import count_of, images_of
from toolkit.report.parity import parity_notes
from toolkit.schema import (
    NO_OP,
    Measurement,
    Results,
)


def notes(results: Results) -> list[str]:
    """Return the notes below the table, one sentence each."""
    lines = []
    lines += parity_notes(results)
    copies = len(results.artifacts) - len({(*item.key, item.sha256) for item in results.artifacts})
    if copies:
        lines.append(f"Artifacts given twice with the same bytes share one row: {copies}.")
    if results.signed_by is not None:
        lines.append(f"Signed, unchanged, by the key {results.signed_by}.")
    lines += _close_calls(results)
    lines += _about_measuring(results)
    lines += [f"Warning: {each.message} → {each.action}." for each in results.warnings]
    if results.quick:
        lines.append(_about_quick(results))
    if results.interrupted:
        lines.append("Interrupted: these results are valid but incomplete.")
    return lines


def _about_quick(results: Results) -> str:
    """Return what a quick run did less of, and what it therefore does not show."""
    done = []
    if results.parity and results.dataset.drawn_from is not None:
        done.append(f"{images_of(results.dataset)} were compared, and the bounds hold for these")
    if results.measurements:
        done.append("speeds were measured for a short time, so small differences are not decided")
    if not done:
        return "Quick: all test images were compared; nothing was left out."
    return f"Quick: {'; '.join(done)}. Repeat without --quick before you decide."


def _close_calls(results: Results) -> list[str]:
    """Return which neighbours are too close to call, and how many more rounds are needed."""
    lines = []
    for faster, each in pairwise(results.ranking):
        if not each.too_close or each.to_faster is None:
            continue
        ratio = each.to_faster
        more = "even 100 times as many rounds might not be enough to decide"
        if each.reason is not None:
            more = each.reason
        elif each.longer is not None:
            more = f"about {each.longer:.1f} times as many rounds are needed to decide"
        lines.append(
            f"Too close to call: {each.name} and {faster.name} "
            f"({ratio.value:.3f} times as fast [{ratio.low:.3f}-{ratio.high:.3f}]); {more}."
        )
    return lines


def _about_measuring(results: Results) -> list[str]:
    """Return notes about the intervals, the overhead of the harness, and the limit of the
    machine."""
    rows = [row for row in results.measurements if row.latency_s]
    passes = max((sum(bool(one.rounds) for one in row.passes) for row in rows), default=0)
    lines = _settings_alike(results)
    no_op = next((row for row in rows if row.runtime == NO_OP), None)
    real = [row.latency_at(0.5) or 0.0 for row in rows if row.runtime != NO_OP]
    if no_op is not None and real and min(real) > 0:
        no_op_s = no_op.latency_at(0.5) or 0.0
        lines.append(
            f"Harness: the no-op runtime takes {no_op_s * 1e6:.1f} µs per call, "
            f"{no_op_s / min(real):.2%} of the fastest real runtime. Intervals are 95 %, over "
            f"{passes} passes of interleaved rounds; each pass uses fresh processes."
        )
    counted = [row.outliers for row in rows if row.outliers is not None and row.runtime != NO_OP]
    samples = sum(each.samples for each in counted)
    if samples:
        beyond = sum(each.low + each.high for each in counted)
        lines.append(f"Outliers: {beyond:,} of {samples:,} calls. They are counted and kept.")
    lines += _about_limits(results)
    lines += _about_the_gpu(rows)
    if results.limits_failure:
        lines.append(f"The share of the limit is unknown: {results.limits_failure}.")
    return lines


def _about_limits(results: Results) -> list[str]:
    """Return the limits to which the shares refer."""
    limits, flops = results.limits, results.flops_per_image
    devices = {row.settings.device for row in results.measurements if row.limit_share is not None}
    if limits is None or flops is None or not devices:
        return []
    found = []
    if "cpu" in devices:
        found.append(
            f"{limits.float32_flops_per_s / 1e9:,.0f} GFLOP/s in float32 matrix products with "
            f"{count_of(limits.threads, 'thread')}"
        )
    if "cuda" in devices and limits.gpu is not None:
        kinds = (
            ("float32", limits.gpu.float32_flops_per_s),
            ("TF32", limits.gpu.tf32_flops_per_s),
            ("bfloat16", limits.gpu.bfloat16_flops_per_s),
            ("float16", limits.gpu.float16_flops_per_s),
        )
        rates = ", ".join(f"{rate / 1e12:,.1f} in {name}" for name, rate in kinds if rate)
        found.append(
            f"on {limits.gpu.name} {rates} TFLOP/s in matrix products (each row refers to the "
            "arithmetic that it attests)"
        )
    return [
        f"Limit: {'; '.join(found)}, measured on this machine; the model takes "
        f"{flops / 1e6:,.1f} MFLOP per image."
    ]


def _about_the_gpu(rows: Sequence[Measurement]) -> list[str]:
    """Return clock, power and temperature in the rounds, from NVML."""
    states = [
        state
        for row in rows
        if row.runtime != NO_OP
        for one in row.passes
        for each in one.rounds
        for state in each.gpu[1:-1] or each.gpu
    ]
    facts = (
        ("{:.2f} to {:.2f} GHz", [(s.clock_hz or 0) / 1e9 for s in states if s.clock_hz]),
        ("{:.0f} to {:.0f} W", [s.power_w for s in states if s.power_w is not None]),
        ("{:.0f} to {:.0f} °C", [s.temperature_c for s in states if s.temperature_c is not None]),
    )
    known = [text.format(min(values), max(values)) for text, values in facts if values]
    return [f"GPU in the rounds: {', '.join(known)}."] if known else []


def _settings_alike(results: Results) -> list[str]:
    """Return the settings that all rows share; the others have columns."""
    rows = results.measurements
    facts = (
        {count_of(row.batch_size, "image") for row in rows},
        {count_of(row.settings.threads, "thread") for row in rows},
        {count_of(row.settings.streams, "stream") for row in rows},
        {f"on {row.settings.device}" for row in rows},
    )
    alike = [text for found in facts if len(found) == 1 for text in found]
    if rows and all(row.settings.keep_memory for row in rows):
        alike.append("memory kept")
    return [f"Each call: {', '.join(alike)}."] if alike else []
