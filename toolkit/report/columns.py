"""The columns of the results table: one line per candidate, with its parity and measurement.

In: results. Out: rows of text cells, shared by the table and Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.report.labels import kind_of
from toolkit.report.numbers import interval_text
from toolkit.report.parity import parity_text, status_text
from toolkit.schema import (
    EXACT_PRECISIONS,
    NO_OP,
    Measurement,
    ParityReport,
    Rank,
    Results,
)
from toolkit.statistics.shares import percent

_Key = tuple[str, str, str, bool, str | None]


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """Parity and measurement of the same candidate; either may be missing. `uint8` says that its
    artifact takes uint8 images."""

    runtime: str
    format: str
    precision: str
    uint8: bool
    parity: ParityReport | None
    measurement: Measurement | None
    place: str | None = None
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading, and how a row fills its cells. Columns that no row fills are left out.

    If a terminal is too narrow, columns with the highest `rank` are dropped first; 0 always stays.
    A column with `varies` is left out if all rows have the same value. A column with `identifies`
    says which candidate a row is about: it stays if rows could not be told apart without it.
    """

    heading: str
    cell: Callable[[SummaryRow], str]
    numeric: bool = True
    rank: int = 0
    varies: bool = False
    identifies: bool = False


def summarise(results: Results) -> list[SummaryRow]:
    """Return the measured candidates, fastest first, grouped by batch size and settings; then the
    others, in the order of the results."""
    parity = {_key(row): row for row in results.parity}
    measured: dict[_Key, list[Measurement]] = {}
    for row in results.measurements:
        measured.setdefault(_key(row), []).append(row)
    places = _places(results.ranking)
    alike = _alike(results)
    rows = [
        SummaryRow(
            runtime=key[0],
            format=key[1],
            precision=key[2],
            uint8=key[3],
            parity=parity.get(key),
            measurement=measurement,
            place=places.get(measurement.name) if measurement else None,
            file=parity[key].file if key in parity and key[:4] in alike else None,
        )
        for key in dict.fromkeys([*parity, *measured])
        for measurement in measured.get(key, [None])
    ]
    order = {name: number for number, name in enumerate(places)}
    return sorted(rows, key=lambda row: order.get(_name(row), len(order)))


def _alike(results: Results) -> set[tuple[str, str, str, bool]]:
    """Return runtime, format, precision and input of rows that differ only in their file."""
    kinds = [_key(row)[:4] for row in results.parity]
    return {kind for kind in kinds if kinds.count(kind) > 1}


def _name(row: SummaryRow) -> str:
    return row.measurement.name if row.measurement is not None else ""


def _places(ranking: tuple[Rank, ...]) -> dict[str, str]:
    """Return places such as `1`, `2`, `3=`: the third is too close to call from the second. Places
    are not shared: among many such neighbours, the first and the last may differ significantly."""
    places: dict[str, str] = {}
    place = 0
    for each in ranking:
        place = 1 if each.to_faster is None else place + 1
        places[each.name] = f"{place}=" if each.too_close else f"{place}"
    return places


def filled_columns(rows: list[SummaryRow]) -> list[Column]:
    """Return the columns that at least one row fills; settings only if they differ."""
    found = {column: {column.cell(row) for row in rows} - {""} for column in COLUMNS}
    return [column for column, cells in found.items() if len(cells) > column.varies]


def droppable(columns: Sequence[Column], rows: Sequence[SummaryRow]) -> Column | None:
    """Return the column to leave out first if a table is too wide; None if all must stay: the
    important ones, and those that tell two rows apart."""

    def kinds(identifying: Sequence[Column]) -> int:
        return len({tuple(column.cell(row) for column in identifying) for row in rows})

    identifying = [column for column in columns if column.identifies]
    told_apart = kinds(identifying)
    for column in sorted(columns, key=lambda each: -each.rank):
        if column.rank == 0:
            return None
        others = [each for each in identifying if each is not column]
        if not column.identifies or kinds(others) == told_apart:
            return column
    return None


def _key(row: ParityReport | Measurement) -> _Key:
    uint8 = row.embeds_preprocessing
    return row.runtime, row.format, row.precision, uint8, row.artifact_sha256


def _parity(text: Callable[[ParityReport], str]) -> Callable[[SummaryRow], str]:
    return lambda row: text(row.parity) if row.parity is not None else ""


def _measured(text: Callable[[Measurement], str]) -> Callable[[SummaryRow], str]:
    return lambda row: text(row.measurement) if row.measurement is not None else ""


def _number(value: float | None, template: str, *, scale: float = 1.0) -> str:
    return "" if value is None else template.format(value * scale)


def _flips(row: ParityReport) -> str:
    """Return a text such as `0 of 10,000: ≤ 0.037%`: the number, and the bound of the share."""
    if row.flips is None or row.flip_rate is None:
        return ""
    benign = f" ({row.benign_flips} benign)" if row.benign_flips else ""
    return f"{row.flips}{benign} of {row.compared:,}: ≤ {percent(row.flip_rate.high)}"


def _in_floors(row: ParityReport) -> str:
    """Return the distance of fp32 rows; other precisions are far away by design."""
    if row.precision not in EXACT_PRECISIONS or row.max_diff_in_floors is None:
        return ""
    return f"{row.max_diff_in_floors:,.1f}"


def _speed(row: Measurement) -> str:
    if row.runtime == NO_OP and row.status == "measured":
        return "—"  # it computes nothing, so it has no throughput; see its latency
    if row.images_per_s is None:
        return status_text(row.status, row.reason)
    return interval_text(row.images_per_s, "{:,.0f}")


def _to_baseline(row: SummaryRow) -> str:
    """Return the ratio to the baseline; `1` for the baseline itself."""
    if row.measurement is None or row.measurement.images_per_s is None:
        return ""
    ratio = row.measurement.to_baseline
    if ratio is not None and ratio.low == ratio.high == 1:
        return "1"
    return interval_text(ratio, "{:.2f}")


def _latency(share: float) -> Callable[[SummaryRow], str]:
    """Return milliseconds, or how many calls the percentile needs."""

    def text(row: Measurement) -> str:
        for each in row.latency_s:
            if each.share == share:
                needed = f"needs {each.samples_needed:,} calls"
                return needed if each.value is None else f"{each.value * 1e3:.2f}"
        return ""

    return _measured(text)


def _outliers(row: Measurement) -> str:
    found = row.outliers
    return "" if found is None else f"{found.low + found.high:,}/{found.samples:,}"


COLUMNS = (
    Column(heading="runtime", cell=lambda row: row.runtime, numeric=False, identifies=True),
    Column(heading="format", rank=2, cell=lambda row: row.format, numeric=False, identifies=True),
    Column(
        heading="precision",
        rank=1,
        cell=lambda row: kind_of(row.precision, uint8=row.uint8),
        numeric=False,
        identifies=True,
    ),
    Column(
        heading="file",
        rank=1,
        cell=lambda row: row.file or "",
        numeric=False,
        varies=True,
        identifies=True,
    ),
    Column(
        heading="parity",
        cell=_parity(parity_text),
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
    Column(heading="in floors", rank=2, cell=_parity(_in_floors)),
    Column(
        heading="batch",
        cell=_measured(lambda row: str(row.batch_size)),
        rank=1,
        varies=True,
        identifies=True,
    ),
    Column(
        heading="threads",
        cell=_measured(lambda row: str(row.settings.threads)),
        rank=1,
        varies=True,
        identifies=True,
    ),
    Column(
        heading="streams",
        cell=_measured(lambda row: str(row.settings.streams)),
        rank=1,
        varies=True,
        identifies=True,
    ),
    Column(heading="place", cell=lambda row: row.place or "", rank=3),
    Column(heading="images/s [95 %]", cell=_measured(_speed)),
    Column(heading="x baseline [95 %]", cell=_to_baseline),
    Column(
        heading="% of limit",
        rank=4,
        cell=_measured(lambda row: _number(row.limit_share, "{:.0f}", scale=100)),
    ),
    Column(heading="median ms", cell=_latency(0.5)),
    Column(heading="p90 ms", rank=5, cell=_latency(0.9)),
    Column(heading="p99 ms", rank=5, cell=_latency(0.99)),
    Column(heading="outliers", rank=7, cell=_measured(_outliers)),
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
