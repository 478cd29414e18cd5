"""Results as one HTML file: the template with its words, charts and tables.

In: results, and what an older run gave, if there is one. Out: HTML. Names and reasons come from
files, so the template escapes every text. The page can load nothing, and runs only its own script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from toolkit.report.columns import filled_columns, summarise
from toolkit.report.comparison import comparison_cells, comparison_notes
from toolkit.report.labels import images_of
from toolkit.report.machine import machine_facts
from toolkit.report.notes import notes
from toolkit.report.page import charts, drawing
from toolkit.report.parity import row_name, status_text
from toolkit.report.scenario import scenario_cells, scenario_notes
from toolkit.report.verdict import advice, fastest, headline, outcome, provisional, safest, tone
from toolkit.schema import (
    Comparison,
    Measurement,
    ParityReport,
    Results,
    ScenarioReport,
    Score,
    WorstImage,
)

_SHOWN_HASH = 12
_DETAILS = ("samples", "latency")  # charts below the table
_MOST_CLOSE = 3  # neighbours that are too close to call


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that the page can sort and filter."""

    key: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image on which a row differs from the checkpoint; `png` may be missing."""

    row: str
    index: int
    label: str
    flipped: bool
    png: str | None
    margin: str
    distance: str
    expected: Sequence[str]
    found: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """What a row that did not pass has to say."""

    name: str
    reason: str
    lines: Sequence[str]
    stderr: str


def render_page(results: Results, comparison: Comparison | None = None) -> str:
    """Return the page of one run; with a comparison, also what changed since an older run.

    Without the packages that draw, the page says how to install them, and has all the rest.
    """
    script, style = _own("page.js"), _own("page.css")
    shown, others = _disagreements(results)
    drawn = charts.charts_of(results) if drawing.installed() else []
    return _template().render(
        results=results,
        title=f"{results.checkpoint.name}: parity and throughput",
        tone=tone(results),
        outcome=outcome(results),
        headline=headline(results),
        lines=[
            line
            for line in (fastest(results), safest(results), provisional(results))
            if line is not None
        ],
        advice=advice(results),
        data=f"{results.dataset.name}, {results.dataset.split} split, {images_of(results.dataset)}",
        facts=machine_facts(results.environment),
        charts=[each for each in drawn if each.key not in _DETAILS],
        details=[each for each in drawn if each.key in _DETAILS],
        install=None if drawing.installed() or not results.measurements else drawing.INSTALL,
        tables=[*_tables(results)],
        comparison=None if comparison is None else _compared(comparison),
        comparison_notes=[] if comparison is None else comparison_notes(comparison),
        notes=[*scenario_notes(results), *_remarks(results)],
        shown=shown,
        others=others,
        dumps=[*_dumps(results)],
        artifacts=_artifacts(results),
        sessions=_sessions(results),
        script=Markup(script),
        style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        svg=Markup,
    )


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_own("page.html"))


def _tables(results: Results) -> list[Table]:
    found = []
    rows = summarise(results)
    if rows:
        columns = filled_columns(rows)
        found.append(
            Table(
                key="rows",
                title="All rows",
                headings=[column.heading for column in columns],
                rows=[[column.cell(row) for column in columns] for row in rows],
                numeric=[column.numeric for column in columns],
            )
        )
    if results.scenarios:
        others, cells = scenario_cells(results)
        found.append(
            Table(
                key="scenarios",
                title="MLPerf scenarios",
                headings=[column.heading for column in others],
                rows=cells,
                numeric=[column.numeric for column in others],
            )
        )
    return found


def _compared(comparison: Comparison) -> Table:
    headings, rows, numeric = comparison_cells(comparison)
    return Table(
        key="compared", title="Old over new", headings=headings, rows=rows, numeric=numeric
    )


def _remarks(results: Results) -> list[str]:
    """Return the notes; warnings of the machine are among the advice."""
    lines = [line for line in notes(results) if not line.startswith("Warning: ")]
    close = [line for line in lines if line.startswith("Too close to call: ")]
    left = len(close) - _MOST_CLOSE
    if left > 0:
        lines = [line for line in lines if line not in close[_MOST_CLOSE:]]
        lines.insert(
            lines.index(close[_MOST_CLOSE - 1]) + 1,
            f"{left} more neighbours are too close to call; their places have a = in the table.",
        )
    return lines


def _disagreements(results: Results) -> tuple[list[Disagreement], list[Disagreement]]:
    """Return the worst images that matter, which were decided differently or belong to a row that
    did not pass, those decided differently first; and the others."""
    pictures = {each.index: each.png for each in results.pictures}
    names = results.checkpoint.class_names
    found = [
        (row.status != "passed", _disagreement(row, each, pictures.get(each.index), names))
        for row in results.parity
        for each in row.worst
    ]
    matters = [each for wrong, each in found if wrong or each.flipped]
    others = [each for wrong, each in found if not wrong and not each.flipped]
    return sorted(matters, key=lambda each: not each.flipped), others


def _disagreement(
    row: ParityReport, each: WorstImage, png: str | None, names: Sequence[str]
) -> Disagreement:
    return Disagreement(
        row=row_name(row),
        index=each.index,
        label=_class(each.label, names),
        flipped=each.reference != each.candidate,
        png=png,
        margin=f"{each.margin:.2g}",
        distance="NaN or infinite" if each.difference is None else f"{each.difference:.2g}",
        expected=[_score(score, names) for score in each.reference_top]
        or [_class(each.reference, names)],
        found=[_score(score, names) for score in each.candidate_top]
        or [_class(each.candidate, names)],
    )


def _class(index: int, names: Sequence[str]) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _score(score: Score, names: Sequence[str]) -> str:
    logit = "NaN or infinite" if score.logit is None else f"{score.logit:.4g}"
    return f"{_class(score.index, names)}: {logit}"


def _dumps(results: Results) -> list[Dump]:
    wrong = [row for row in results.parity if row.status != "passed"]
    told = {(row.runtime, row.artifact_sha256) for row in wrong}
    found = [
        Dump(
            name=row_name(row),
            reason=status_text(row.status, row.reason),
            lines=_evidence(row),
            stderr=row.stderr_tail.rstrip(),
        )
        for row in wrong
    ]
    found += [
        Dump(
            name=each.name,
            reason=status_text(each.status, each.reason),
            lines=[],
            stderr=each.stderr_tail.rstrip(),
        )
        for each in _timed(results)
        if each.status not in ("measured", "passed")
        and (each.runtime, each.artifact_sha256) not in told
    ]
    return found


def _timed(results: Results) -> list[Measurement | ScenarioReport]:
    return [*results.measurements, *results.scenarios]


def _evidence(row: ParityReport) -> list[str]:
    lines = [] if row.cause is None else [f"Cause: {row.cause.text}", row.cause.action]
    lines += [f"{each.name}: {each.reason}" for each in row.checks if each.reason is not None]
    return lines


def _artifacts(results: Results) -> Table:
    return Table(
        key="files",
        title="Files",
        headings=["file", "format", "precision", "size MB", "SHA-256", "written with"],
        rows=[
            [
                each.path,
                each.format,
                each.precision,
                f"{each.size_bytes / 1e6:.2f}",
                each.sha256[:_SHOWN_HASH],
                ", ".join(f"{name} {version}" for name, version in each.versions.items()),
            ]
            for each in results.artifacts
        ],
        numeric=[False, False, False, True, False, False],
    )


def _sessions(results: Results) -> Table:
    """Return what each session attested."""
    rows: list[ParityReport | Measurement] = [*results.parity, *results.measurements]
    cells = {
        (
            found.runtime,
            row.format,
            row.precision,
            found.version,
            found.provider,
            found.device,
            found.arithmetic,
            str(found.threads),
            found.confinement or "",
        ): None
        for row in rows
        if (found := row.session) is not None
    }
    headings = ["runtime", "format", "precision", "version", "provider", "device", "arithmetic"]
    return Table(
        key="sessions",
        title="Sessions as attested",
        headings=[*headings, "threads", "confined by"],
        rows=[[*each] for each in cells],
        numeric=[False] * 7 + [True, False],
    )
