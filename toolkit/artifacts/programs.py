"""Artifacts that are programs: formats whose files may run code when they are opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolkit.artifacts.formats import UNKNOWN_CODE, known_formats
from toolkit.report.labels import kind_of
from toolkit.schema import Artifact, Program


def programs_of(artifacts: Iterable[tuple[Path, Artifact]]) -> list[Program]:
    """Return the programs among artifacts, which are given by path and record."""
    return [
        Program(
            kind="artifact",
            name=f"{record.format} {kind_of(record.precision, uint8=record.embeds_preprocessing)}",
            path=str(path.resolve()),
            sha256=record.sha256,
            runs=what_it_runs(record.format) or UNKNOWN_CODE,
        )
        for path, record in artifacts
        if what_it_runs(record.format) is not None
    ]


def what_it_runs(format: str) -> str | None:
    """Return what opening an artifact of this format can run; None if it is data. A format that is
    not installed counts as a program."""
    row = known_formats().get(format)
    return UNKNOWN_CODE if row is None else row.runs
