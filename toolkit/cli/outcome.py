"""Output of a command: the result on stdout, errors on stderr, and the exit code.

In: a command function that returns an `Outcome` or raises. Out: printed text and the process's
exit code.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from toolkit.errors import ToolkitError, ToolkitWarning

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a command: a record for scripts, a text for people, and an exit code."""

    record: dict[str, Any]
    text: str
    exit_code: int = 0


Command = Callable[..., Outcome]


def outcome_of(command: Command) -> Callable[..., NoReturn]:
    """Add `--json` and `--debug` to a command, and print its outcome or error."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option("--debug", is_flag=True, help="Show the traceback if an error occurs.")
    @functools.wraps(command)
    def run(*, as_json: bool, debug: bool, **arguments: Any) -> NoReturn:
        try:
            from toolkit.machine.system import check_system
            from toolkit.progress import bars

            check_system()

            with _warnings_in_lines(), bars() as progress:
                outcome = command(progress=progress, **arguments)
        except KeyboardInterrupt:
            _fail("interrupted; no incomplete files were left behind", INTERRUPTED, as_json=as_json)
        except ToolkitError as error:
            if debug:
                raise
            _fail(str(error), error.exit_code, as_json=as_json, kind=type(error).__name__)
        except click.ClickException:
            raise
        except Exception as error:
            if debug:
                raise
            text = f"internal error: {type(error).__name__}: {error}; run again with --debug"
            _fail(text, 3, as_json=as_json, kind=type(error).__name__)
        if not _is_one_of_others():
            click.echo(
                json.dumps(outcome.record, indent=2, allow_nan=False) if as_json else outcome.text
            )
        sys.exit(outcome.exit_code)

    return run


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _is_one_of_others() -> bool:
    """Return whether another process (rank 0) prints the result. Every process prints its own
    errors."""
    return started_by_torchrun() and os.environ.get("RANK", "0") != "0"


@contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Print each toolkit warning as one line on stderr; leave warnings of libraries unchanged."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ToolkitWarning):
            click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ToolkitWarning)
        warnings.showwarning = show
        yield


def _fail(message: str, code: int, *, as_json: bool, kind: str = "Interrupted") -> NoReturn:
    line = " ".join(message.split())
    click.echo(f"Error: {line}", err=True)
    if as_json and not _is_one_of_others():
        click.echo(json.dumps({"error": {"type": kind, "message": line, "exit_code": code}}))
    sys.exit(code)
