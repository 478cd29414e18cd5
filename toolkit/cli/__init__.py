"""The command line. It registers the commands; `toolkit.cli.outcome` prints their results.

Results go to stdout, progress and errors to stderr. Exit codes: 0 passed; 1 a verdict
failed; 2 wrong usage or bad input; 3 something could not be run; 130 interrupted (128 + the number
of the signal).
"""

from __future__ import annotations

import sys

import click

from toolkit import __version__
from toolkit.cli.bench import bench
from toolkit.cli.compare import compare
from toolkit.cli.doctor import doctor
from toolkit.cli.export import export
from toolkit.cli.gate import gate
from toolkit.cli.import_weights import import_weights
from toolkit.cli.loadgen import loadgen
from toolkit.cli.report import report
from toolkit.cli.run import run
from toolkit.cli.runtimes import runtimes
from toolkit.cli.show import show
from toolkit.cli.streams import cannot_print, discard_output, prepare_streams, tell
from toolkit.cli.train import train
from toolkit.cli.trust import trust
from toolkit.cli.tune import tune
from toolkit.cli.verify import verify
from toolkit.interruption import end_at_once

_GROUPS = {
    "Make": (train, import_weights, export),
    "Check": (verify, trust, runtimes, doctor),
    "Measure": (run, bench, tune, loadgen),
    "Decide": (compare, gate, report, show),
}


class _Grouped(click.Group):
    """A group whose help lists the commands by what people want."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(str(each.name), each.get_short_help_str(formatter.width)) for each in group]
                )


@click.group(
    cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def commands() -> None:
    """Export a trained PyTorch classifier, verify the exported files, and benchmark them.

    Exit codes: 0 passed; 1 a verdict failed; 2 wrong usage or bad input; 3 something could not be
    run; 4 'compare' or 'gate' is undecided; 130 interrupted (129 by SIGHUP, 131 by SIGQUIT, 143 by
    SIGTERM).
    """


for command in (each for group in _GROUPS.values() for each in group):
    commands.add_command(command)


def main() -> None:
    """Run the command line. SIGHUP, SIGQUIT and SIGTERM are handled like Ctrl-C: child processes
    end and no incomplete file is left."""
    end_at_once()
    prepare_streams()
    try:
        commands()
    except OSError as error:  # from the help; the commands handle their own errors
        discard_output()
        tell(f"Error: {cannot_print(error)}")
        sys.exit(2)
