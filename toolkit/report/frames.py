"""Records as pandas data frames: one row per candidate, raw values in SI units.

In: a record. Out: a `pandas.DataFrame`. pandas is imported only here, and need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from toolkit.errors import SettingError
from toolkit.report.csv import HEADINGS, raw_rows
from toolkit.schema import (
    Comparison,
    Configuration,
    Diagnosis,
    Interval,
    Results,
    Settings,
    Shown,
    Tuning,
)

if TYPE_CHECKING:
    import pandas

_PLAIN = (str, int, float, bool, type(None))


def frame_of(record: Shown) -> pandas.DataFrame:
    """Return the rows of a record: candidates, scenarios, trials, compared rows, or warnings.

    Raises:
        SettingError: pandas is not installed.
    """
    match record:
        case Results() if record.scenarios and not (record.parity or record.measurements):
            return frame_of_rows(map(flat, record.scenarios))
        case Results():
            rows = [dict(zip(HEADINGS, row, strict=True)) for row in raw_rows(record)]
            return frame_of_rows(rows, HEADINGS)
        case Tuning():
            return frame_of_rows(
                {**flat(each), "recommended": each.name == record.recommended}
                for each in record.trials
            )
        case Comparison():
            return frame_of_rows(map(flat, record.rows))
        case Diagnosis():
            return frame_of_rows(map(flat, record.warnings))
    raise TypeError(f"{type(record).__name__} has no rows")


def frame_of_rows(
    rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None
) -> pandas.DataFrame:
    """Return rows as a frame.

    Raises:
        SettingError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise SettingError(
            "to_frame() needs the package pandas; install it with: pip install pandas"
        ) from error
    return pandas.DataFrame(list(rows), columns=None if columns is None else list(columns))


def flat(record: Any) -> dict[str, Any]:
    """Return the plain fields of a record. Settings and configurations are spread, an interval
    becomes three fields, and lists are left out."""
    found: dict[str, Any] = {}
    for each in fields(record):
        value = getattr(record, each.name)
        if isinstance(value, Settings | Configuration):
            found.update(flat(value))
        elif isinstance(value, Interval):
            found[each.name] = value.value
            found |= {f"{each.name}_low": value.low, f"{each.name}_high": value.high}
        elif isinstance(value, _PLAIN):
            found[each.name] = value
    return found
