"""Conversion of records to JSON-ready values and back, with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """Convert a record to JSON-ready values; tuples stay tuples, which JSON writes as lists."""
    # Not msgspec.to_builtins: for a dataclass without slots it returns only the values in
    # `__dict__`, so a record that was read loses its defaults and keeps the order of the file. It
    # also refuses numpy.float64.
    return asdict(record)


def from_json(cls: type[Record], data: Mapping[str, Any], *, version: int | None = None) -> Record:
    """Create a record from parsed JSON. Unknown keys are ignored, so newer files stay readable.

    `version` is the required `schema_version` of the file. It is checked first, because it explains
    more than the first field that another version lacks.

    Raises:
        ValueError: Names the field and says what was expected.
    """
    import msgspec

    found = data.get("schema_version") if isinstance(data, Mapping) else None
    if version is not None and found != version:
        raise ValueError(f"schema_version {found}, expected {version}")
    return msgspec.convert(data, cls)
