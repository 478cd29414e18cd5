"""The result of an export: the artifacts of a folder, what was written now, and the failures.

In: a manifest and outcomes. Out: records that show themselves as tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.artifacts.manifest import StoredArtifact
from toolkit.errors import FailedRun, printable
from toolkit.report.artifacts import artifact_cells
from toolkit.report.frames import flat, frame_of_rows
from toolkit.report.html import html_table
from toolkit.report.labels import kind_of
from toolkit.report.table import aligned
from toolkit.schema import Artifact, Manifest, Precision

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class FailedExport:
    """A format and precision in which this model could not be written, and why."""

    format: str
    precision: Precision
    failure: FailedRun
    embeds_preprocessing: bool = False


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of an export: the manifest in `folder`, the paths that were written now, and the
    failures. Other artifacts already existed and matched. `signed_by` is the fingerprint of the key
    that signed the folder now. `interrupted` says that some artifacts are missing, because it was
    stopped before its end."""

    folder: Path
    checkpoint: Path
    manifest: Manifest
    written: tuple[str, ...]
    failures: tuple[FailedExport, ...]
    signed_by: str | None = None
    interrupted: bool = False

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per artifact.

        Raises:
            SettingError: pandas is not installed.
        """
        written = [{"written": each.path in self.written} for each in self.artifacts]
        return frame_of_rows(
            {**flat(each), **more} for each, more in zip(self.artifacts, written, strict=True)
        )

    def _repr_html_(self) -> str:
        return html_table(*self._cells(), notes=self._notes())

    def __str__(self) -> str:
        headings, rows, numeric = self._cells()
        return printable("\n".join([aligned(headings, rows, numeric=numeric), *self._notes()]))

    def _cells(self) -> tuple[list[str], list[list[str]], list[bool]]:
        return artifact_cells(self.folder, self.artifacts, written=self.written)

    def _notes(self) -> list[str]:
        card = "How to feed each file is in the card next to it: FILE.md"
        return [
            *([card] if self.artifacts else []),
            *([] if self.signed_by is None else [f"Signed by the key {self.signed_by}."]),
            *(
                f"Warning: {_name(each)}: {said}"
                for each in self.artifacts
                for said in each.warnings
            ),
            *(f"{_name(each)}: {each.failure}" for each in self.failures),
            *(["Interrupted: some artifacts are missing."] if self.interrupted else []),
        ]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The records of all artifacts in the folder."""
        return self.manifest.artifacts

    @property
    def stored(self) -> tuple[StoredArtifact, ...]:
        """The artifacts written by this export; their bytes need no second check."""
        return tuple(
            StoredArtifact(record=each, path=self.folder / each.path, checkpoint=self.checkpoint)
            for each in self.artifacts
            if each.path in self.written
        )


def _name(item: Artifact | FailedExport) -> str:
    return f"{item.format} {kind_of(item.precision, uint8=item.embeds_preprocessing)}"
