"""`toolkit doctor`: facts, load and limits of this machine → warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from toolkit.cli.options import threads_option
from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.report.progress import Progress


@click.command()
@threads_option
@outcome_of
def doctor(progress: Progress, *, threads: int | None) -> Outcome:
    """Check whether this machine is fit for benchmarks.

    Prints facts about the machine, the load from other processes, measured limits and warnings.
    Each warning names the flag or action that helps. Warnings do not change the exit code.
    """
    import toolkit
    from toolkit.report.machine import render_diagnosis
    from toolkit.schema import to_json

    found = toolkit.doctor(threads=threads, progress=progress)
    return Outcome(record=to_json(found), text=render_diagnosis(found))
