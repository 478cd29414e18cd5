"""Results as CSV: one line a candidate, raw values in SI units."""

from __future__ import annotations

import csv
import io

from toolkit.report.summary import summarise
from toolkit.schema import Results

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
    "mean_abs_diff",
    "nan_count",
)
_MEASUREMENT = (
    "status",
    "reason",
    "batch_size",
    "threads",
    "images_per_s",
    "images_per_s_low",
    "images_per_s_high",
    "latency_median_s",
    "latency_p90_s",
    "import_s",
    "load_s",
    "first_inference_s",
    "peak_memory_bytes",
    "artifact_size_bytes",
)


def render_csv(results: Results) -> str:
    """A heading line, then a line a candidate; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            *("runtime", "format", "precision", "artifact_sha256"),
            *(f"parity_{name}" for name in _PARITY[:2]),
            *_PARITY[2:],
            *(f"measurement_{name}" for name in _MEASUREMENT[:2]),
            *_MEASUREMENT[2:],
        ]
    )
    for row in summarise(results):
        some = row.parity or row.measurement
        writer.writerow(
            [
                *(row.runtime, row.format, row.precision, some.artifact_sha256 if some else ""),
                *_values(row.parity, _PARITY),
                *_values(row.measurement, _MEASUREMENT),
            ]
        )
    return buffer.getvalue()


def _values(record: object, names: tuple[str, ...]) -> list[object]:
    return [None if record is None else getattr(record, name) for name in names]
