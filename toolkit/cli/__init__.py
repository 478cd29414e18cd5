"""The command line. It registers the commands; `toolkit.cli.outcome` prints their results.

Results go to stdout, progress and errors to stderr. Exit codes: 0 passed; 1 a verdict
failed; 2 wrong usage or bad input; 3 something could not be run; 130 interrupted.
"""

from __future__ import annotations

import signal

import click

from toolkit import __version__
from toolkit.cli.bench import bench
from toolkit.cli.compare import compare
from toolkit.cli.doctor import doctor
from toolkit.cli.export import export
from toolkit.cli.import_weights import import_weights
from toolkit.cli.loadgen import loadgen
from toolkit.cli.outcome import started_by_torchrun
from toolkit.cli.run import run
from toolkit.cli.runtimes import runtimes
from toolkit.cli.train import train
from toolkit.cli.trust import trust
from toolkit.cli.tune import tune
from toolkit.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def commands() -> None:
    """Export a trained PyTorch classifier, verify the exported files, and benchmark them.

    Exit codes: 0 passed; 1 a verdict failed; 2 wrong usage or bad input; 3 something could not be
    run; 4 'compare' is undecided; 130 interrupted.
    """


for command in (
    *(train, import_weights, export, verify, bench, loadgen, compare, tune, run),
    *(trust, runtimes, doctor),
):
    commands.add_command(command)


def main() -> None:
    """Run the command line. SIGTERM is handled like Ctrl-C: child processes end and no incomplete
    file is left. Under torchrun it is not, because torchrun sends SIGTERM to processes that wait
    for each other."""
    if not started_by_torchrun():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    commands()
