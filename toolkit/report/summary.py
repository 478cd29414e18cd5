"""One line a candidate: its parity report and its measurement, side by side.

In: results. Out: rows of text cells, shared by the table and Markdown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.schema import Measurement, ParityReport, Results, Status

# Winograd convolutions were seen 170 noise floors away; half precision starts at 1,000.
_FAR_IN_FLOORS = 500

_Key = tuple[str, str, str, str | None]


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """Parity and measurement of the same candidate; either may be missing."""

    runtime: str
    format: str
    precision: str
    parity: ParityReport | None
    measurement: Measurement | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading and how a row fills it; columns that no row fills are left out.

    Where a terminal is too narrow, columns of the highest `rank` go first; 0 stays.
    """

    heading: str
    cell: Callable[[SummaryRow], str]
    numeric: bool = True
    rank: int = 0


def summarise(results: Results) -> list[SummaryRow]:
    """Rows in the order of the parity reports, then of measurements that have none."""
    parity = {_key(row): row for row in results.parity}
    measurements = {_key(row): row for row in results.measurements}
    return [
        SummaryRow(
            runtime=key[0],
            format=key[1],
            precision=key[2],
            parity=parity.get(key),
            measurement=measurements.get(key),
        )
        for key in dict.fromkeys([*parity, *measurements])
    ]


def status_text(status: Status, reason: str | None) -> str:
    """`passed`, or the status with what is known of it: `crashed: SIGSEGV`."""
    words = status.replace("_", " ")
    return f"{words}: {' '.join(reason.split())}" if reason else words


def filled_columns(rows: list[SummaryRow]) -> list[Column]:
    """The columns in which some row has something to say."""
    return [column for column in COLUMNS if any(column.cell(row) for row in rows)]


def notes(results: Results) -> list[str]:
    """What a reader should know beside the table, one sentence each."""
    lines = []
    judged = next((row for row in results.parity if row.noise_floor is not None), None)
    if judged is not None:
        against = "the checkpoint in float64"
        if judged.reference_precision == "fp32":
            against = "the checkpoint in float32 (its code fixes a dtype: there is no float64 form)"
        lines.append(
            f"Logit differences are against {against}; torch's own float32 is up to "
            f"{judged.noise_floor:.1e} away from it (500 images)."
        )
    lines += [text for row in results.parity if (text := _far_away(row))]
    copies = len(results.artifacts) - len(
        {(item.format, item.precision, item.sha256) for item in results.artifacts}
    )
    if copies:
        lines.append(f"Artifacts given twice, as the same bytes, share one row: {copies}.")
    null = next((row for row in results.measurements if row.runtime == "null"), None)
    real = [
        row.latency_median_s
        for row in results.measurements
        if row.runtime != "null" and row.latency_median_s
    ]
    if null is not None and null.latency_median_s is not None and real:
        share = null.latency_median_s / min(real)
        lines.append(
            f"Harness: the null runtime takes {null.latency_median_s * 1e6:.1f} µs a call, "
            f"{share:.2%} of the fastest real one. Intervals are 95 %, over the "
            "interleaved rounds of one process each."
        )
    return lines


def _far_away(row: ParityReport) -> str | None:
    """A sentence where fp32 decides alike but cannot have computed what the model computes."""
    if row.precision != "fp32" or row.status != "passed" or not row.noise_floor:
        return None
    floors = (row.max_abs_diff or 0) / row.noise_floor
    if floors <= _FAR_IN_FLOORS:
        return None
    return (
        f"{row.runtime} {row.format}: decisions agree, but logits are up to {row.max_abs_diff:.1e} "
        f"away, {floors:,.0f} times torch's own float32 noise: the arithmetic is not fp32, or the "
        "output is not the logits (a softmax, a scale). Thresholds on scores will not carry over."
    )


def _key(row: ParityReport | Measurement) -> _Key:
    return row.runtime, row.format, row.precision, row.artifact_sha256


def _parity(text: Callable[[ParityReport], str]) -> Callable[[SummaryRow], str]:
    return lambda row: text(row.parity) if row.parity is not None else ""


def _measured(text: Callable[[Measurement], str]) -> Callable[[SummaryRow], str]:
    return lambda row: text(row.measurement) if row.measurement is not None else ""


def _number(value: float | None, template: str, *, scale: float = 1.0) -> str:
    return "" if value is None else template.format(value * scale)


def _flips(row: ParityReport) -> str:
    if row.flips is None:
        return ""
    return f"{row.flips} ({row.benign_flips} benign)" if row.benign_flips else str(row.flips)


def _speed(row: Measurement) -> str:
    if row.images_per_s is None or row.images_per_s_low is None or row.images_per_s_high is None:
        return status_text(row.status, row.reason)
    if row.runtime == "null":
        return "—"  # it computes nothing, so it has no throughput; see its latency
    low, high = row.images_per_s_low, row.images_per_s_high
    return f"{row.images_per_s:,.0f} [{low:,.0f}-{high:,.0f}]"


def _latency(row: Measurement) -> str:
    return _number(row.latency_median_s, "{:.2f}", scale=1e3)


COLUMNS = (
    Column(heading="runtime", cell=lambda row: row.runtime, numeric=False),
    Column(heading="format", rank=2, cell=lambda row: row.format, numeric=False),
    Column(heading="precision", rank=1, cell=lambda row: row.precision, numeric=False),
    Column(
        heading="parity",
        cell=_parity(lambda row: status_text(row.status, row.reason)),
        numeric=False,
    ),
    Column(
        heading="compared", rank=3, cell=_parity(lambda row: f"{row.compared:,}/{row.expected:,}")
    ),
    Column(heading="accuracy", cell=_parity(lambda row: _number(row.accuracy, "{:.2%}"))),
    Column(heading="flips", cell=_parity(_flips)),
    Column(
        heading="max diff", rank=1, cell=_parity(lambda row: _number(row.max_abs_diff, "{:.1e}"))
    ),
    Column(heading="images/s [95 %]", cell=_measured(_speed)),
    Column(heading="median ms", cell=_measured(_latency)),
    Column(
        heading="p90 ms",
        rank=5,
        cell=_measured(lambda row: _number(row.latency_p90_s, "{:.2f}", scale=1e3)),
    ),
    Column(heading="load s", rank=4, cell=_measured(lambda row: _number(row.load_s, "{:.2f}"))),
    Column(
        heading="first ms",
        rank=6,
        cell=_measured(lambda row: _number(row.first_inference_s, "{:.0f}", scale=1e3)),
    ),
    Column(
        heading="memory MB",
        rank=3,
        cell=_measured(lambda row: _number(row.peak_memory_bytes, "{:.0f}", scale=1e-6)),
    ),
    Column(
        heading="size MB",
        rank=2,
        cell=_measured(lambda row: _number(row.artifact_size_bytes, "{:.2f}", scale=1e-6)),
    ),
)
