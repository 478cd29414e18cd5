"""Records that show themselves as tables: in a terminal, a notebook, or pandas.

People hold a record and call its methods, so this is the one place where the records name a room
above them. `toolkit.report` makes the tables, and is imported when one is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


class Shown:
    """A record with a table. `print` shows it as text, and a notebook as HTML."""

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per candidate with raw values in SI units, as in `results.csv`.

        Raises:
            SettingError: pandas is not installed.
        """
        from toolkit.report.frames import frame_of

        return frame_of(self)

    def _repr_html_(self) -> str:
        from toolkit.report.html import html_of

        return html_of(self)

    def __str__(self) -> str:
        from toolkit.report.text import text_of

        return text_of(self)
