"""Numbers as text."""

from __future__ import annotations

from toolkit.schema import Interval


def interval_text(found: Interval | None, template: str) -> str:
    """Format an interval as `5,478 [4,623-6,493]`, each number with `template`; empty for None."""
    if found is None:
        return ""
    value, low, high = (template.format(each) for each in (found.value, found.low, found.high))
    return f"{value} [{low}-{high}]"
