"""Shared parts of the commands: default paths, imports of user code, results as an outcome."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.cli.outcome import Outcome

if TYPE_CHECKING:
    from toolkit.parity.gates import GateSettings
    from toolkit.schema import Results

REFERENCE = Path("models/mnist-cnn")
EXPORTS = Path("models/exports")


def or_default(paths: tuple[Path, ...]) -> list[Path]:
    """Return the given paths, or else the exports of the reference CNN."""
    return list(paths) or [EXPORTS / REFERENCE.name]


def trust(model: str | None) -> None:
    """Allow imports from the current folder if a model factory is named."""
    if model is not None:
        import_from_here()


def import_from_here() -> None:
    """Allow imports from the current folder, as `python -m` does."""
    sys.path.insert(0, str(Path.cwd()))


def gates_of(options: dict[str, Any]) -> tuple[GateSettings, dict[str, Any]]:
    """Split the options of a command into gates and other options.

    Raises:
        SettingError: A gate is out of range.
    """
    from toolkit.parity.gates import GateSettings

    names = {each.name for each in fields(GateSettings)}
    gates = {name: value for name, value in options.items() if name in names}
    return GateSettings(**gates), {name: options[name] for name in options.keys() - names}


def results_outcome(results: Results) -> Outcome:
    """Return a table for people, a record for scripts, and the exit code of the verdicts."""
    from toolkit.report.table import render_table, terminal_width
    from toolkit.schema import to_json

    return Outcome(
        record=to_json(results),
        text=render_table(results, width=terminal_width()),
        exit_code=results.exit_code,
    )
