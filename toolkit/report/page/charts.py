"""The charts of the report page: speed, choice, scaling, rounds, time per call.

In: results. Out: charts, as far as the results have data for them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.report.notes import notes
from toolkit.report.page.drawing import INK, Chart, drawn, values_of
from toolkit.report.verdict import baseline_name, verdict_of
from toolkit.schema import NO_OP, Measurement, Results, Round

if TYPE_CHECKING:
    import altair

_WIDTH = 640
_ROW = 26
_MOST_POINTS = 60  # per row and pass
_SMALL = {"width": 190, "height": 90}
_COLUMNS = 3
# Okabe and Ito's colours, which colour-blind people can tell apart.
_VERDICTS = {
    "passed": "#0072b2",
    "not compared": "#8c8c8c",
    "undecided": "#e69f00",
    "failed": "#d55e00",
}
_SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")


def charts_of(results: Results) -> list[Chart]:
    """Return the charts for which the results have data."""
    rows = [row for row in results.measurements if row.runtime != NO_OP and row.images_per_s]
    draws = (_speed, _choice, _scaling, _samples, _latency)
    return [chart for draw in draws if (chart := draw(results, rows)) is not None] if rows else []


def _speed(results: Results, rows: Sequence[Measurement]) -> Chart:
    """Bars of images per second with their intervals; the fastest is at the top."""
    import altair as alt

    ordered = sorted(rows, key=lambda row: -_interval(row)[0])
    places = {each.name: _place(number, each.too_close) for number, each in _ranked(results)}
    data = [
        {
            "name": row.name,
            "speed": _interval(row)[0],
            "low": _interval(row)[1],
            "high": _interval(row)[2],
            "parity": _shown_verdict(results, row),
            "text": f"{_interval(row)[0]:,.0f}{_ratio(row)}{places.get(row.name, '')}",
        }
        for row in ordered
    ]
    most = max(each["high"] for each in data)  # type: ignore[type-var]
    base = alt.Chart(values_of(data)).encode(
        y=alt.Y("name:N", sort=[row.name for row in ordered], title=None)
    )
    scale = alt.Scale(domain=[0, float(most) * 1.35])  # type: ignore[arg-type]
    bars = base.mark_bar(height=14).encode(
        x=alt.X("speed:Q", title="images/s", scale=scale, axis=alt.Axis(tickCount=6)),
        color=_by_verdict(),
    )
    whiskers = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    ends = [base.mark_tick(color=INK, height=9, width=9).encode(x=f"{at}:Q") for at in _ENDS]
    text = base.mark_text(align="left", dx=6, color=INK).encode(x="high:Q", text="text:N")
    chart = alt.layer(bars, whiskers, *ends, text).properties(
        width=_WIDTH - 180, height=_ROW * len(rows)
    )
    first = ordered[0]
    return drawn(
        "speed",
        "Speed",
        f"Bars end at the speed; lines are 95 % intervals. The ratio to {baseline_name(results)} "
        "comes from paired rounds, so it differs slightly from the quotient of the speeds. A place "
        f"with = is too close to call from the one before it. {_each_call(results)}",
        f"Bar chart of {len(rows)} rows. {first.name} is the fastest with "
        f"{_interval(first)[0]:,.0f} images per second; {ordered[-1].name} is the slowest with "
        f"{_interval(ordered[-1])[0]:,.0f}.",
        chart,
    )


_ENDS = ("low", "high")


def _choice(results: Results, rows: Sequence[Measurement]) -> Chart | None:
    """Speed over file size; rows that no other row beats in both are joined by a line."""
    import altair as alt

    if len({row.artifact_sha256 for row in rows}) < 2:
        return None
    best = {row.name for row in pareto([row for row in rows if _may_be_chosen(results, row)])}
    data = [
        {
            "name": row.name,
            "size": row.artifact_size_bytes / 1e6,
            "speed": _interval(row)[0],
            "parity": _shown_verdict(results, row),
            "best": row.name in best,
        }
        for row in rows
    ]
    chart = alt.Chart(values_of(data))
    axes = {
        "x": alt.X(
            "size:Q", title="size of the file in MB", scale=alt.Scale(zero=False, nice=True)
        ),
        "y": alt.Y("speed:Q", title="images/s", scale=alt.Scale(zero=True)),
    }
    line = (
        chart.mark_line(interpolate="step-before", color=INK, strokeDash=[4, 4])
        .transform_filter("datum.best")
        .encode(**axes)
    )
    points = chart.mark_point(filled=True, size=90, opacity=0.9).encode(
        **axes,
        color=_by_verdict(),
        shape=alt.Shape(
            "best:N",
            legend=None,
            scale=alt.Scale(domain=[True, False], range=["diamond", "circle"]),
        ),
    )
    names = (
        chart.mark_text(align="left", dx=8, dy=-6, color=INK, fontSize=10)
        .transform_filter("datum.best")
        .encode(**axes, text="name:N")
    )
    listed = "; ".join(sorted(best)) or "none"
    return drawn(
        "choice",
        "Choice",
        "Diamonds, joined by the dashed line, are the rows that passed and that no other such row "
        "beats in both speed and size (the Pareto set). The table below has all numbers.",
        f"Scatter plot of speed over file size. The Pareto set is: {listed}.",
        alt.layer(line, points, names).properties(width=_WIDTH - 60, height=300),
    )


def _each_call(results: Results) -> str:
    """Return the settings that all rows share, as a sentence."""
    return next((line for line in notes(results) if line.startswith("Each call: ")), "")


def pareto(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return the rows that no other row beats: no smaller file is as fast."""
    return [
        row
        for row in rows
        if not any(
            other.artifact_size_bytes <= row.artifact_size_bytes
            and _interval(other)[0] >= _interval(row)[0]
            and (other.artifact_size_bytes, _interval(other)[0])
            != (row.artifact_size_bytes, _interval(row)[0])
            for other in rows
        )
    ]


def _scaling(results: Results, rows: Sequence[Measurement]) -> Chart | None:
    """Speed over batch size, or over threads, if there are several."""
    import altair as alt

    swept: dict[str, Callable[[Measurement], int]] = {
        "batch size": lambda row: row.batch_size,
        "threads": lambda row: row.settings.threads,
        "streams": lambda row: row.settings.streams,
    }
    found = [name for name, value in swept.items() if len({value(row) for row in rows}) > 1]
    if not found:
        return None
    over = swept[found[0]]
    data = [
        {
            "x": over(row),
            "speed": _interval(row)[0],
            "low": _interval(row)[1],
            "high": _interval(row)[2],
            "kind": " ".join(
                [
                    f"{row.runtime} {row.precision}",
                    *(f"{swept[name](row)} {name}" for name in found[1:]),
                ]
            ),
        }
        for row in rows
    ]
    chart = alt.Chart(values_of(data)).encode(
        x=alt.X("x:O", title=found[0]),
        color=alt.Color("kind:N", title=None, scale=alt.Scale(range=list(_SERIES))),
    )
    y = alt.Y("speed:Q", title="images/s")
    layers = alt.layer(
        chart.mark_line(point=True).encode(y=y),
        chart.mark_rule().encode(y="low:Q", y2="high:Q"),
    )
    return drawn(
        "scaling",
        f"Scaling over {found[0]}",
        "Lines are 95 % intervals.",
        f"Line chart of speed over {found[0]}.",
        layers.properties(width=_WIDTH - 160, height=260),
    )


def _samples(results: Results, rows: Sequence[Measurement]) -> Chart | None:
    """The median of each round, in the order of the measurement, one small chart per row."""
    import altair as alt

    data = [point for row in rows for point in _rounds(row)]
    if not data:
        return None
    points = (
        alt.Chart(values_of(data))
        .mark_point(filled=True, size=18, opacity=0.9)
        .encode(
            x=alt.X(
                "round:Q",
                title="rounds",
                axis=alt.Axis(ticks=False, labels=False, grid=False),
                scale=alt.Scale(padding=8),
            ),
            y=alt.Y("ms:Q", title="ms per call", scale=alt.Scale(zero=False, padding=8)),
            color=alt.Color(
                "pass:N", title=None, legend=None, scale=alt.Scale(range=list(_SERIES))
            ),
        )
        .properties(**_SMALL)
        .facet(
            facet=alt.Facet("name:N", title=None, sort=[row.name for row in rows]),
            columns=_COLUMNS,
        )
        .resolve_scale(y="independent", x="independent")
    )
    return drawn(
        "samples",
        "Rounds in their order",
        "Each point is the median call of a round; each colour is a pass in a new process. A drift "
        "or a step shows that something else happened.",
        f"Small scatter plots of the time per call over the rounds, for {len(rows)} rows.",
        points,
    )


def _rounds(row: Measurement) -> Iterator[dict[str, object]]:
    number = 0
    for at, one in enumerate(row.passes, 1):
        rounds = [found for each in one.rounds if (found := _calls(each))]
        step = max(1, len(rounds) // _MOST_POINTS)
        for each in rounds[::step]:
            number += 1
            middle = statistics.median(each) * 1e3
            yield {"name": row.name, "round": number, "ms": middle, "pass": f"pass {at}"}


def _calls(one: Round) -> list[float]:
    """Return the seconds of each call, of all streams."""
    return [seconds for stream in one.samples_s for seconds in stream]


def _latency(results: Results, rows: Sequence[Measurement]) -> Chart | None:
    """Quantiles of the time per call."""
    import altair as alt

    data = []
    for row in rows:
        samples = [s * 1e3 for one in row.passes for each in one.rounds for s in _calls(each)]
        if len(samples) > 1:
            cuts = statistics.quantiles(samples, n=20, method="inclusive")
            data.append({"name": row.name} | {key: cuts[at] for key, at in _CUTS.items()})
    if not data:
        return None
    data.sort(key=lambda each: each["p50"])
    base = alt.Chart(values_of(data)).encode(
        y=alt.Y("name:N", sort=[str(each["name"]) for each in data], title=None)
    )
    x = alt.X("p5:Q", title="ms per call (logarithmic)", scale=alt.Scale(type="log"))
    layers = alt.layer(
        base.mark_rule(color=INK).encode(x=x, x2="p95:Q"),
        base.mark_bar(height=10, color=_SERIES[0]).encode(x="p25:Q", x2="p75:Q"),
        base.mark_tick(color=INK, height=16, thickness=2).encode(x="p50:Q"),
    )
    return drawn(
        "latency",
        "Time per call",
        "Lines reach from the 5th to the 95th percentile, boxes from the 25th to the 75th. The "
        "mark is the median.",
        f"Box plot of the time per call of {len(data)} rows.",
        layers.properties(width=_WIDTH - 180, height=_ROW * len(data)),
    )


_CUTS = {"p5": 0, "p25": 4, "p50": 9, "p75": 14, "p95": 18}  # of 19 between 20 parts


def _interval(row: Measurement) -> tuple[float, float, float]:
    found = row.images_per_s
    return (0.0, 0.0, 0.0) if found is None else (found.value, found.low, found.high)


def _ratio(row: Measurement) -> str:
    found = row.to_baseline
    if found is None or found.low == found.high == 1:
        return ""
    return f" · {found.value:.2f} x"


def _ranked(results: Results) -> Iterator[tuple[int, Any]]:
    number = 0
    for each in results.ranking:
        number = 1 if each.to_faster is None else number + 1
        yield number, each


def _place(number: int, too_close: bool) -> str:
    return f" · #{number}{'=' if too_close else ''}"


def _shown_verdict(results: Results, row: Measurement) -> str:
    found = verdict_of(results, row.name)
    return found if found in _VERDICTS else "not compared"


def _may_be_chosen(results: Results, row: Measurement) -> bool:
    return verdict_of(results, row.name) in ("passed", "not compared")


def _by_verdict() -> altair.Color:
    import altair as alt

    return alt.Color(
        "parity:N",
        title="parity",
        scale=alt.Scale(domain=list(_VERDICTS), range=list(_VERDICTS.values())),
        legend=alt.Legend(orient="top"),
    )
