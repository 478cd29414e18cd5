"""Names that the shell completes: formats, precisions, runtimes.

In: what was typed. Out: the names that begin with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

_ALL = "all"


def formats(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Return the formats that begin with `typed`."""
    from toolkit.artifacts.formats import known_formats

    return _beginning(typed, [*known_formats(), _ALL])


def precisions(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Return the precisions that begin with `typed`."""
    from toolkit.schema import EXPORTED_PRECISIONS

    return _beginning(typed, EXPORTED_PRECISIONS)


def runtimes(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Return the runtimes that begin with `typed`."""
    from toolkit.sessions.runtimes import known_runtimes

    return _beginning(typed, [*known_runtimes(), _ALL])


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(typed)]
