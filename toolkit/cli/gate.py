"""`toolkit gate`: an old and a new run → whether the new one may replace the old one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.cli.shared import anyway_option, fail_below_option

if TYPE_CHECKING:
    from toolkit.report.progress import Progress

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("current", type=click.Path(path_type=Path))
@fail_below_option
@click.option(
    "--allow-undecided", is_flag=True, help="Pass although rows are undecided, in parity or speed."
)
@anyway_option
@click.option("--junit", type=_file, metavar="FILE", help="Write the rows as JUnit XML.")
@click.option(
    "--summary", type=_file, metavar="FILE", help="Write a summary for a pull request (Markdown)."
)
@click.option(
    "--github",
    is_flag=True,
    help="In GitHub Actions: print annotations, and add the summary to that of the job.",
)
@outcome_of
def gate(
    progress: Progress,
    *,
    baseline: Path,
    current: Path,
    junit: Path | None,
    summary: Path | None,
    github: bool,
    fail_below: float,
    allow_undecided: bool,
    anyway: bool,
) -> Outcome:
    """Judge parity and speed of a new run together, for CI.

    BASELINE and CURRENT are files that 'toolkit run' wrote on one machine, or the folders that hold
    their results.json. A candidate that passed in BASELINE and is missing in CURRENT fails.

    Exit code 0: passed. 1: a row does not compute the model, lost more speed than --fail-below, or
    is missing. 2: nothing could be judged. 3: a row could not be run. 4: undecided; measure both
    runs again.
    """
    import toolkit
    from toolkit.files import write_atomically
    from toolkit.report.gate import github_annotations, render_gate, render_junit, render_summary
    from toolkit.schema import to_json

    found = toolkit.gate(
        toolkit.read_results(baseline),
        toolkit.read_results(current),
        fail_below=fail_below,
        allow_undecided=allow_undecided,
        anyway=anyway,
    )
    if junit is not None:
        write_atomically(junit, render_junit(found))
    if summary is not None:
        write_atomically(summary, render_summary(found))
    text = render_gate(found)
    if github:
        _add_to_job_summary(render_summary(found))
        text = "\n".join([text, *github_annotations(found)])
    return Outcome(
        record={**to_json(found), "exit_code": found.exit_code},
        text=text,
        exit_code=found.exit_code,
    )


def _add_to_job_summary(text: str) -> None:
    """Append to the file that GitHub Actions names.

    Raises:
        SettingError: It names none.
        OutputError: It is not writable.
    """
    from toolkit.errors import SettingError
    from toolkit.files.writing import as_output_error

    name = os.environ.get(_STEP_SUMMARY)
    if not name:
        raise SettingError(
            f"--github needs GitHub Actions, which sets {_STEP_SUMMARY}; elsewhere, write the "
            "summary with --summary FILE"
        )
    with as_output_error(Path(name)), Path(name).open("a", encoding="utf-8") as file:
        file.write(text)
