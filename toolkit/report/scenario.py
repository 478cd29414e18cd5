"""MLPerf scenarios as text: one line per candidate, with LoadGen's verdict.

In: results. Out: headings and cells, shared by the table and Markdown, and notes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.report.labels import kind_of
from toolkit.report.parity import status_text
from toolkit.schema import Results, ScenarioReport


@dataclass(frozen=True, kw_only=True)
class ScenarioColumn:
    """A heading, and how a row fills its cells."""

    heading: str
    cell: Callable[[ScenarioReport], str]
    numeric: bool = True


def scenario_cells(results: Results) -> tuple[list[ScenarioColumn], list[list[str]]]:
    """Return the columns that at least one row fills, and the cells of each row."""
    rows = results.scenarios
    columns = [column for column in COLUMNS if any(column.cell(row) for row in rows)]
    return columns, [[column.cell(row) for column in columns] for row in rows]


def scenario_notes(results: Results) -> list[str]:
    """Return the notes below the table: why runs are INVALID, and what these runs cannot be used
    for."""
    rows = results.scenarios
    lines = [
        f"{row.name} is INVALID by LoadGen's rules: {'; '.join(row.violations)}"
        for row in rows
        if row.valid is False
    ]
    measured = [row for row in rows if row.status == "measured"]
    if not measured:
        return lines
    first = measured[0]
    lines.append(
        f"Timed and judged by MLPerf LoadGen {first.loadgen}: {first.scenario}, at least "
        f"{first.min_duration_s:g} s{_bound(first)}; "
        f"{sum(row.checked or 0 for row in measured):,} of its "
        f"{sum(row.samples or 0 for row in measured):,} answers were compared with untimed ones."
    )
    if not all(row.submission_length for row in measured):
        lines.append(
            "These runs are shorter than a submission: MLPerf requires 600 s (--min-time 600 "
            "--max-time 7200), and 24,576 samples for offline."
        )
    return lines


def _bound(row: ScenarioReport) -> str:
    if row.target_qps is None or row.latency_bound_s is None:
        return ""
    return f", {row.target_qps:g} queries/s (Poisson), 99 % within {row.latency_bound_s * 1e3:g} ms"


def _verdict(row: ScenarioReport) -> str:
    if row.status != "measured":
        return status_text(row.status, row.reason)
    return "VALID" if row.valid else "INVALID"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1e3:.3f}"


def _latency(share: float) -> Callable[[ScenarioReport], str]:
    """Return milliseconds, or how many queries the percentile needs."""

    def text(row: ScenarioReport) -> str:
        for each in row.latency_s:
            if each.share == share:
                needed = f"needs {each.samples_needed:,} queries"
                return needed if each.value is None else _milliseconds(each.value)
        return ""

    return text


def _precision(row: ScenarioReport) -> str:
    return kind_of(row.precision, uint8=row.embeds_preprocessing)


COLUMNS = (
    ScenarioColumn(heading="runtime", cell=lambda row: row.runtime, numeric=False),
    ScenarioColumn(heading="format", cell=lambda row: row.format, numeric=False),
    ScenarioColumn(heading="precision", cell=_precision, numeric=False),
    ScenarioColumn(heading="scenario", cell=lambda row: row.scenario, numeric=False),
    ScenarioColumn(heading="LoadGen says", cell=_verdict, numeric=False),
    ScenarioColumn(heading="batch", cell=lambda row: str(row.batch_size)),
    ScenarioColumn(heading="threads", cell=lambda row: str(row.settings.threads)),
    ScenarioColumn(heading="streams", cell=lambda row: str(row.settings.streams)),
    ScenarioColumn(heading="queries", cell=lambda row: _count(row.queries)),
    ScenarioColumn(heading="samples", cell=lambda row: _count(row.samples)),
    ScenarioColumn(
        heading="seconds",
        cell=lambda row: "" if row.duration_s is None else f"{row.duration_s:.1f}",
    ),
    ScenarioColumn(heading="samples/s", cell=lambda row: _count(row.samples_per_s)),
    ScenarioColumn(heading="p50 ms", cell=_latency(0.5)),
    ScenarioColumn(heading="p90 ms", cell=_latency(0.9)),
    ScenarioColumn(heading="p99 ms", cell=_latency(0.99)),
    ScenarioColumn(heading="MLPerf p90 ms", cell=lambda row: _milliseconds(row.mlperf_latency_s)),
)
