"""Results as CSV: one line per candidate, raw values in SI units."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator

from toolkit.report.columns import summarise
from toolkit.schema import Measurement, Results

_PARITY = (
    "status",
    "reason",
    "compared",
    "expected",
    "accuracy",
    "reference_accuracy",
    "argmax_agreement",
    "flips",
    "benign_flips",
    "max_abs_diff",
    "max_diff_in_floors",
    "mean_abs_diff",
    "rms_error",
    "nan_count",
    "file",
)
_MEASUREMENT: dict[str, Callable[[Measurement], object]] = {
    "name": lambda row: row.name,
    "measurement_status": lambda row: row.status,
    "measurement_reason": lambda row: row.reason,
    "batch_size": lambda row: row.batch_size,
    "threads": lambda row: row.settings.threads,
    "streams": lambda row: row.settings.streams,
    "device": lambda row: row.settings.device,
    "keep_memory": lambda row: row.settings.keep_memory,
    "passes": lambda row: sum(bool(each.rounds) for each in row.passes),
    "rounds": lambda row: sum(len(each.rounds) for each in row.passes),
    "images_per_s": lambda row: row.images_per_s and row.images_per_s.value,
    "images_per_s_low": lambda row: row.images_per_s and row.images_per_s.low,
    "images_per_s_high": lambda row: row.images_per_s and row.images_per_s.high,
    "to_baseline": lambda row: row.to_baseline and row.to_baseline.value,
    "to_baseline_low": lambda row: row.to_baseline and row.to_baseline.low,
    "to_baseline_high": lambda row: row.to_baseline and row.to_baseline.high,
    "limit_share": lambda row: row.limit_share,
    "latency_median_s": lambda row: row.latency_at(0.5),
    "latency_p90_s": lambda row: row.latency_at(0.9),
    "latency_p99_s": lambda row: row.latency_at(0.99),
    "repeat_ratio": lambda row: row.repeat_ratio and row.repeat_ratio.value,
    "page_faults": lambda row: row.page_faults,
    "outliers": lambda row: row.outliers and row.outliers.low + row.outliers.high,
    "import_s": lambda row: row.import_s,
    "load_s": lambda row: row.load_s,
    "first_inference_s": lambda row: row.first_inference_s,
    "peak_memory_bytes": lambda row: row.peak_memory_bytes,
    "artifact_size_bytes": lambda row: row.artifact_size_bytes,
}


def render_csv(results: Results) -> str:
    """Return a heading line, then one line per candidate, batch size and settings. Unknown values
    are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADINGS)
    writer.writerows(raw_rows(results))
    return buffer.getvalue()


HEADINGS = (
    *("runtime", "format", "precision", "input", "artifact_sha256"),
    *(f"parity_{name}" for name in _PARITY[:2]),
    *_PARITY[2:],
    *_MEASUREMENT,
)


def raw_rows(results: Results) -> Iterator[list[object]]:
    """Yield the values of each candidate, in the order of `HEADINGS`; None is unknown."""
    for row in summarise(results):
        some = row.parity or row.measurement
        yield [
            *(row.runtime, row.format, row.precision, "uint8" if row.uint8 else "float32"),
            some.artifact_sha256 if some else "",
            *(None if row.parity is None else getattr(row.parity, name) for name in _PARITY),
            *(
                None if row.measurement is None else value(row.measurement)
                for value in _MEASUREMENT.values()
            ),
        ]
