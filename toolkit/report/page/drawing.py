"""From a chart of Altair to a picture that fits into the page.

In: a chart. Out: its SVG, rendered without a browser. Colours of text and lines are left to the
page, so that a chart is readable on light and dark ground.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair

INSTALL = "pip install 'toolkit[report]'"

# Fonts as wide as the one that the labels are measured with, and space for others.
_FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
_PADDING = {"left": 24, "right": 12, "top": 5, "bottom": 5}
INK, _FAINT = "#010203", "#010204"  # stand for colours of the page
_REPLACED = {INK: "currentColor", _FAINT: "var(--line)"}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: `alternative` says in words what it shows, `svg` is its picture."""

    key: str
    title: str
    caption: str
    alternative: str
    svg: str


def installed() -> bool:
    """Return whether the packages that draw charts are installed."""
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def values_of(data: Sequence[object]) -> altair.Data:
    """Return rows as data of a chart."""
    import altair as alt

    return alt.Data(values=list(data))  # type: ignore[no-untyped-call]


def drawn(key: str, title: str, caption: str, alternative: str, chart: Any) -> Chart:
    """Return a chart of Altair with its picture."""
    import vl_convert

    configured = (
        chart.configure(background="transparent", font=_FONT, padding=_PADDING)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            gridColor=_FAINT,
            domainColor=_FAINT,
            tickColor=_FAINT,
            gridOpacity=0.6,
            labelLimit=260,
            labelOverlap="greedy",
            labelFontSize=11,
            titleFontWeight="normal",
        )
        .configure_legend(labelColor=INK, titleColor=INK)
        .configure_header(labelColor=INK, labelFontSize=11)
    )
    svg = vl_convert.vegalite_to_svg(configured.to_dict(), allowed_base_urls=[])
    return Chart(
        key=key, title=title, caption=caption, alternative=alternative, svg=_for_the_page(svg)
    )


def _for_the_page(svg: str) -> str:
    """Return an SVG that takes its colours from the page and scales with it."""
    for placeholder, colour in _REPLACED.items():
        svg = svg.replace(placeholder, colour)
    # Its own accessible names are those of a specification; the figure has better ones.
    return re.sub(r' (role|aria-[a-z]+)="[^"]*"', "", svg)
