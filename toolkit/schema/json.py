"""Conversion of records to JSON-ready values and back, with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """Convert a record to JSON-ready values: tuples become lists, paths become text."""
    return asdict(record)


def from_json(cls: type[Record], data: Mapping[str, Any], *, version: int | None = None) -> Record:
    """Create a record from parsed JSON. Unknown keys are ignored, so newer files stay readable.

    `version` is the required `schema_version` of the file.

    Raises:
        ValueError: Names the field and says what was expected.
    """
    import cattrs

    found = data.get("schema_version") if isinstance(data, Mapping) else None
    if version is not None and found != version:
        raise ValueError(f"schema_version {found}, expected {version}")
    converter = cattrs.Converter()
    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, _strict)
    converter.register_structure_hook(int | float | str | bool, _scalar)
    try:
        return converter.structure(data, cls)
    except Exception as error:
        raise ValueError("; ".join(cattrs.transform_error(error, path="record"))) from error


def _scalar(value: Any, _: object) -> Any:
    if not isinstance(value, int | float | str | bool):
        raise TypeError(f"expected a number, text or boolean, got {value!r}")
    return value


def _strict(value: Any, kind: type) -> Any:
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return kind(value)
