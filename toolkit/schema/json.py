"""Records → JSON-ready values and back, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as JSON-ready values; tuples stay tuples, which JSON writes as lists."""
    # Not msgspec.to_builtins: of a dataclass without slots it gives only what is in `__dict__`, so
    # a record that was read loses its defaults and keeps the file's order. It refuses
    # numpy.float64, too.
    return asdict(record)


def from_json(cls: type[Record], data: Mapping[str, Any], *, version: int | None = None) -> Record:
    """Return a record from parsed JSON. Ignore unknown keys, so that newer files stay readable.

    `version` is the `schema_version` that a file must have. It is checked first, for it explains
    more than the first field that another version lacks.

    Raises:
        ValueError: names the field and says what was expected there.
    """
    import msgspec

    found = data.get("schema_version") if isinstance(data, Mapping) else None
    if version is not None and found != version:
        raise ValueError(f"schema_version {found}, expected {version}")
    return msgspec.convert(data, cls)
