"""Output of a command: the result on stdout, errors on stderr, and the exit code.

In: a command function that returns an `Outcome` or raises. Out: printed text and the process's
exit code.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from toolkit.cli.explanations import explained
from toolkit.cli.streams import show, tell
from toolkit.errors import OutputError, ToolkitWarning, printable
from toolkit.interruption import exit_code_of, received, signals_raised


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a command.

    Attributes:
        record: For scripts.
        text: For people.
        exit_code: Of the process.
        advice: A line on stderr below the result, for people and scripts.
        details: What `--debug` adds on stderr: the dumps behind the reasons of failed rows.
    """

    record: dict[str, Any]
    text: str
    exit_code: int = 0
    advice: str = ""
    details: str = ""


Command = Callable[..., Outcome]


def outcome_of(command: Command) -> Callable[..., NoReturn]:
    """Add `--json` and `--debug` to a command, and print its outcome or error."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option(
        "--debug",
        is_flag=True,
        help="Show the traceback of an error, and the dumps of rows that could not be run.",
    )
    @functools.wraps(command)
    def run(*, as_json: bool, debug: bool, **arguments: Any) -> NoReturn:
        try:
            from toolkit.machine.system import check_system
            from toolkit.report.progress import bars

            with signals_raised(_remove_scratch), _warnings_in_lines():
                check_system()
                _sweep()
                with bars() as progress:
                    outcome = command(progress=progress, **arguments)
        except KeyboardInterrupt as stop:
            _interrupted(exit_code_of(stop), as_json=as_json)
        except click.ClickException:
            raise
        except Exception as error:
            number = received()
            if number is not None:  # a library turned the interruption into its own error
                _interrupted(128 + number, as_json=as_json)
            if debug:
                raise
            _fail(*explained(error), as_json=as_json, kind=type(error).__name__)
        if not _is_one_of_others():
            record, text = outcome.record, printable(outcome.text)
            try:
                show(json.dumps(record, indent=2, allow_nan=False) if as_json else text)
            except OutputError as error:
                _fail(str(error), error.exit_code, as_json=False)
            for more in (outcome.details if debug else "", outcome.advice):
                if more:
                    tell(printable(more))
        _end(outcome.exit_code)

    return run


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _is_one_of_others() -> bool:
    """Return whether another process (rank 0) prints the result. Every process prints its own
    errors."""
    return started_by_torchrun() and os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Print each toolkit warning as one line on stderr, once; leave warnings of libraries
    unchanged."""
    usual, said = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ToolkitWarning):
            line = printable(" ".join(str(message).split()))
            if line not in said:  # a data set may be read twice in one command
                tell(f"Warning: {line}")
            said.add(line)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ToolkitWarning)
        warnings.showwarning = show
        yield


def _sweep() -> None:
    """Delete what killed commands left behind, and say so."""
    from toolkit.files.scratch import say_swept, sweep

    say_swept(sweep())


def _remove_scratch() -> None:
    from toolkit.files.scratch import remove_all

    remove_all()


def _interrupted(code: int, *, as_json: bool) -> NoReturn:
    _fail("interrupted; no incomplete files were left behind", code, as_json=as_json)


def _fail(message: str, code: int, *, as_json: bool, kind: str = "Interrupted") -> NoReturn:
    line = printable(" ".join(message.split()))
    tell(f"Error: {line}")
    if as_json and not _is_one_of_others():
        record = {"error": {"type": kind, "message": line, "exit_code": code}}
        with contextlib.suppress(OutputError):
            show(json.dumps(record))
    _end(code)


def _end(code: int) -> NoReturn:
    """End this process. After a signal, leave out the endings of the libraries, which take torch a
    second; but first end child processes whose start was interrupted."""
    if received() is not None:
        from toolkit.processes.endings import kill_children

        kill_children()
        _remove_scratch()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
