"""`toolkit trust`: show what would run, and allow it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.outcome import Outcome, outcome_of
from toolkit.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.report.progress import Progress
    from toolkit.schema import Program


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR|FILE]...")
@click.option("--yes", is_flag=True, help="Trust what is shown, without a question.")
@click.option("--list", "listed", is_flag=True, help="List everything that you trust.")
@click.option(
    "--revoke",
    "revoked",
    multiple=True,
    metavar="PATH|SHA256",
    help="No longer trust a program; repeatable.",
)
@outcome_of
def trust(
    progress: Progress,
    *,
    paths: tuple[Path, ...],
    yes: bool,
    listed: bool,
    revoked: tuple[str, ...],
) -> Outcome:
    """Show which code a folder would run, and allow it.

    Takes export folders, single artifacts and checkpoint folders. TorchScript, pt2, AOTInductor and
    Core ML files are programs, and a checkpoint names the code of its model. A program runs only
    if your own toolkit exported or imported it, or if you trust it here. Trust ends when the bytes
    change.
    """
    from toolkit.artifacts.trust import find_programs, revoke, trust_programs, trusted_programs
    from toolkit.errors import SettingError

    if sum((bool(paths), listed, bool(revoked))) != 1:
        raise SettingError("give paths to trust, or --list, or --revoke, but only one of them")
    if listed:
        return _outcome(trusted_programs(), "trusted", empty="nothing is trusted")
    if revoked:
        return _outcome(revoke(revoked), "revoked", empty="")
    found = find_programs(paths)
    if not found.new:
        what = "all of it is trusted already" if found.programs else "only data, no program"
        return _outcome(found.programs, "already trusted", empty=f"nothing to trust: {what}")
    if not yes:
        _ask(found.new)
    return _outcome(trust_programs(found.new), "trusted", empty="")


def _ask(programs: Sequence[Program]) -> None:
    """Show the programs and ask.

    Raises:
        SettingError: The answer is no, or there is nobody to ask.
    """
    from toolkit.errors import SettingError

    click.echo(_table(programs), err=True)
    if not sys.stdin.isatty():
        raise SettingError("nothing was trusted: no terminal to ask on; add --yes to trust these")
    if not click.confirm("Trust them? They then run with your rights", err=True):
        raise SettingError("nothing was trusted")


def _outcome(programs: Sequence[Program], state: str, *, empty: str) -> Outcome:
    from toolkit.schema import to_json

    text = f"{_table(programs)}\n{len(programs)} {state}" if programs else empty
    record = {"state": state, "programs": [to_json(each) for each in programs]}
    return Outcome(record=record, text=text)


def _table(programs: Sequence[Program]) -> str:
    from toolkit.report.table import aligned

    rows = [
        [
            _shown(each.name if each.kind == "artifact" else f"{each.name}({_arguments(each)})"),
            _shown(each.path),
            each.sha256[:12],
            f"toolkit {_shown(each.command)}, {_shown(each.time[:10])}"
            if each.command
            else _origin(each),
            _shown(each.runs),
        ]
        for each in programs
    ]
    headings = ["program", "file", "sha256", "from", "can run"]
    return aligned(headings, rows, numeric=[False] * len(headings))


def _shown(text: str) -> str:
    """Return a text on one line that cannot steer the terminal: it may come from a stranger."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _arguments(program: Program) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in program.arguments.items())


def _origin(program: Program) -> str:
    """Return who owns the file."""
    try:
        return f"owner {Path(program.path).owner()}"
    except (OSError, KeyError):
        return "unknown owner"
