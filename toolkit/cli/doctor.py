"""`toolkit doctor`: is this machine fit to measure on?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from toolkit.cli.options import threads_option
from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.progress import Progress


@click.command()
@threads_option
@outcome_of
def doctor(progress: Progress, *, threads: int | None) -> Outcome:
    """Is this machine fit to measure on? Facts, load of others, measured limits, warnings.

    A warning names the flag or the action that helps; it is no failure.
    """
    import toolkit
    from toolkit.report.machine import render_diagnosis
    from toolkit.schema import to_json

    found = toolkit.doctor(threads=threads, progress=progress)
    return Outcome(record=to_json(found), text=render_diagnosis(found))
