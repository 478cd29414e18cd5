"""`toolkit runtimes`: list the runtimes and formats that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.artifacts.formats import Format
    from toolkit.report.progress import Progress
    from toolkit.sessions.runtimes import Runtime


@click.command()
@outcome_of
def runtimes(progress: Progress) -> Outcome:
    """List runtimes and formats with versions or install commands."""
    from toolkit.artifacts.formats import known_formats
    from toolkit.sessions.runtimes import known_runtimes

    rows, formats = known_runtimes().values(), known_formats().values()
    record = {
        "runtimes": [_runtime_record(row) for row in rows],
        "formats": [_format_record(row) for row in formats],
    }
    lines = [f"{'runtime':<18} {'runs on':<14} {'loads':<36} version, or how to install"]
    for row in rows:
        where, found = row.where_it_runs(), row.version() or row.install
        lines.append(f"{row.name:<18} {where:<14} {row.what_it_loads():<36} {found}")
    lines += ["", f"{'format':<18} written with, or how to install"]
    for item in formats:
        missing = item.missing()
        found = ", ".join(f"{name} {version}" for name, version in item.versions().items())
        lines.append(f"{item.name:<18} {item.install if missing else found}")
    return Outcome(record=record, text="\n".join(lines))


def _runtime_record(row: Runtime) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version(),
        "formats": list(row.formats),
        "precisions": None if row.precisions is None else list(row.precisions),
        "devices": list(row.devices),
        "systems": None if row.systems is None else list(row.systems),
        "install": row.install,
    }


def _format_record(row: Format) -> dict[str, Any]:
    return {
        "name": row.name,
        "versions": row.versions(),
        "installed": not row.missing(),
        "install": row.install,
    }
