"""Shared parts of the commands: default paths, results as an outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolkit.checkpoints.bundled import REFERENCE
from toolkit.cli.options import Share
from toolkit.cli.outcome import Outcome
from toolkit.errors import Interrupted, OutputError
from toolkit.interruption import exit_code_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from toolkit.schema import Measurement, ParityReport, Results, ScenarioReport

Record = TypeVar("Record", bound="DataclassInstance")

REPORT = "report.html"
EXPORTS = Path("models/exports")


fail_below_option = click.option(
    "--fail-below",
    type=Share(),
    default=-0.03,
    metavar="-3%",
    help="A row is a regression if its loss is shown to exceed this share. 0 reports any loss. "
    "Default: -3%.",
)
anyway_option = click.option("--anyway", is_flag=True, help="Compare even if the machines differ.")


def or_default(paths: tuple[Path, ...]) -> list[Path]:
    """Return the given paths, or else the exports of the reference CNN."""
    return list(paths) or [EXPORTS / REFERENCE.name]


def take(kind: type[Record], options: dict[str, Any]) -> Record:
    """Make a record of the options of a command that are its fields, and remove them from the
    options.

    Raises:
        SettingError: A value is out of range.
    """
    names = [each.name for each in fields(kind) if each.name in options]
    return kind(**{name: options.pop(name) for name in names})


def results_outcome(results: Results, out: Path | None = None) -> Outcome:
    """Return a table for people, a record for scripts, and the exit code of the verdicts. Write the
    page of the results into the folder `out`, and say where it is."""
    from toolkit.report.table import render_table, terminal_width
    from toolkit.results import write_report
    from toolkit.schema import to_json

    rows: list[ParityReport | Measurement | ScenarioReport]
    rows = [*results.parity, *results.measurements, *results.scenarios]
    dumps = [(f"{row.runtime} {row.format} {row.precision}", row.stderr_tail) for row in rows]
    text = with_verdict(results, render_table(results, width=terminal_width()))
    if out is not None:
        try:
            write_report(out / REPORT, results)
            text += f"\nReport: {out / REPORT}"
        except OutputError as error:  # the results themselves are complete
            text += f"\nNo report: {error}"
    return Outcome(
        record=to_json(results),
        text=text,
        exit_code=results.exit_code,
        details=dumps_of(dumps),
    )


def with_verdict(results: Results, table: str) -> str:
    """Return the verdict in words above the table."""
    from toolkit.report.verdict import first_lines

    return "\n\n".join(filter(None, [first_lines(results), table]))


def dumps_of(dumps: Iterable[tuple[str, str]]) -> str:
    """Return what `--debug` shows: the output of each row that failed."""
    return "\n\n".join(f"{name}:\n{text.rstrip()}" for name, text in dumps if text)


def interrupted_outcome(stop: Interrupted, outcome: Outcome) -> Outcome:
    """Return the outcome of what was finished before Ctrl-C, with what the same command would go on
    with."""
    return replace(outcome, exit_code=exit_code_of(stop), advice=f"Interrupted: {stop.advice}.")
