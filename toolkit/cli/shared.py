"""What several commands need: default places, the user's own code, results as an outcome."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.checkpoints.bundled import REFERENCE
from toolkit.cli.outcome import Outcome

if TYPE_CHECKING:
    from toolkit.parity.gates import GateSettings
    from toolkit.schema import Results

EXPORTS = Path("models/exports")


def or_default(paths: tuple[Path, ...]) -> list[Path]:
    """Those given, or the reference CNN's exports."""
    return list(paths) or [EXPORTS / REFERENCE.name]


def trust(model: str | None) -> None:
    """Where a model factory is named, let it be imported from the current folder."""
    if model is not None:
        import_from_here()


def import_from_here() -> None:
    """Let the user's model factory be imported from the current folder, as `python -m` would."""
    sys.path.insert(0, str(Path.cwd()))


def gates_of(options: dict[str, Any]) -> tuple[GateSettings, dict[str, Any]]:
    """The gates among the options of a command, and the other options.

    Raises:
        SettingError: a gate out of range.
    """
    from toolkit.parity.gates import GateSettings

    names = {each.name for each in fields(GateSettings)}
    gates = {name: value for name, value in options.items() if name in names}
    return GateSettings(**gates), {name: options[name] for name in options.keys() - names}


def results_outcome(results: Results) -> Outcome:
    """A table for people, the record for scripts, and the exit code of the verdicts."""
    from toolkit.report.table import render_table, terminal_width
    from toolkit.schema import to_json

    return Outcome(
        record=to_json(results),
        text=render_table(results, width=terminal_width()),
        exit_code=results.exit_code,
    )
