"""The command: parsers first, then artifacts in workers, then the table and the exit code."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.artifacts.formats import known_formats
from toolkit.errors import ToolkitWarning
from toolkit.files import write_json
from toolkit.timing import Stopwatch

from .counts import Counts, table
from .parsers import TARGETS
from .search import search

if TYPE_CHECKING:
    from .artifacts import Outcome, Pair, Verifier

_PARSERS_SHARE = 0.25  # of the time; the rest is for artifacts


def _say(text: str) -> None:
    click.echo(text, err=True)


def fuzz_parsers(
    targets: Sequence[str], *, seed: int, seconds: float, timeout_s: float
) -> list[Counts]:
    """Search through the parsers, each for its share of the time."""
    rows = []
    for name in targets:
        found = search(name, seed=seed, seconds=seconds / len(targets), timeout_s=timeout_s)
        _say(f"{name}: {found.cases} cases, {len(found.findings)} findings")
        rows.append(found)
    return rows


def fuzz_artifacts(
    verifier: Verifier, pairs: Sequence[Pair], *, seed: int, seconds: float, jobs: int
) -> list[Counts]:
    """Verify damaged artifacts of all pairs in turn until the time is over; each pair has one case
    at least."""
    rows = {pair: Counts(target=str(pair)) for pair in pairs}
    usable = [pair for pair in pairs if _passes(verifier, rows[pair], pair)]
    watch = Stopwatch()

    def wanted() -> Iterator[tuple[Pair, int]]:
        for turn in itertools.count() if usable else ():
            for pair in usable:
                if turn and watch.elapsed_s() > seconds:
                    return
                yield pair, seed + turn

    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[Outcome], Pair] = {}
        for pair, number in wanted():
            running[pool.submit(verifier.damaged, pair, number)] = pair
            while len(running) >= jobs:
                _collect(running, rows, FIRST_COMPLETED)
        _collect(running, rows, "ALL_COMPLETED")
    return list(rows.values())


def _passes(verifier: Verifier, counts: Counts, pair: Pair) -> bool:
    """Return whether the healthy artifact passes; otherwise nothing is shown, which is a
    finding."""
    outcome = verifier.healthy(pair)
    _say(f"{outcome.fate}: {outcome.change}: {outcome.reason[:300]}")
    if outcome.fate != "passed":
        counts.findings.append(f"the healthy artifact: {outcome.fate}: {outcome.reason}")
    return outcome.fate == "passed"


def _collect(running: dict[Future[Outcome], Pair], rows: dict[Pair, Counts], until: str) -> None:
    for future in wait(running, return_when=until).done:
        pair, outcome = running.pop(future), future.result()
        rows[pair].add(outcome.fate, f"{outcome.change}: {outcome.reason}")
        _say(f"{outcome.fate}: {outcome.change}: {outcome.reason[:150]}")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="toolkit-fuzz-") as name:
        yield Path(name)


@click.command()
@click.option("--minutes", type=float, default=1.0, show_default=True, help="Time for all cases.")
@click.option("--seed", default=0, show_default=True, help="The same seed, the same cases.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Parser to fuzz, or 'none'; repeatable. Default: all.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help="Format to damage, or 'none'; repeatable. Default: all that are installed.",
)
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="As in verify.")
@click.option("--jobs", default=1, show_default=True, help="Workers at the same time.")
@click.option(
    "--exports",
    type=click.Path(path_type=Path),
    help="Folder for the healthy exports, to use them again. Default: a temporary one.",
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="File to write the counts to.")
def main(
    minutes: float,
    seed: int,
    targets: tuple[str, ...],
    formats: tuple[str, ...],
    timeout_s: float,
    jobs: int,
    exports: Path | None,
    out: Path | None,
) -> None:
    """Damage files at random, and check that the toolkit refuses them or reports a failed row.

    Exit code 1: a hang, a crash of the driver, or a pass whose logits are out of the distance that
    the verdict allows. Exporting the healthy artifacts does not count as time.
    """
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    warnings.simplefilter("ignore", ToolkitWarning)  # each program that is trusted
    parsers = [name for name in targets or TARGETS if name != "none"]
    chosen = [name for name in formats or known_formats() if name != "none"]
    share = _PARSERS_SHARE if parsers and chosen else 1.0
    seconds = 60 * minutes
    rows: list[Counts] = []
    if parsers:
        rows += fuzz_parsers(parsers, seed=seed, seconds=seconds * share, timeout_s=timeout_s)
    if chosen:
        from .artifacts import Exports, Verifier

        with _folder(exports) as folder, _folder(None) as scratch:
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            made = Exports(folder, chosen)
            for format, reason in made.lost.items():
                _say(f"{format} cannot be exported: {reason}")
            verifier = Verifier(made, scratch / "cases", timeout_s=timeout_s)
            left = seconds * (share if share == 1.0 else 1 - share)
            rows += fuzz_artifacts(verifier, made.pairs(), seed=seed, seconds=left, jobs=jobs)
    _finish(rows, out, seed=seed, minutes=minutes)


def _finish(rows: Sequence[Counts], out: Path | None, *, seed: int, minutes: float) -> None:
    click.echo(table(rows))
    findings = [f"{each.target}: {text}" for each in rows for text in each.findings]
    for text in findings:
        click.echo(f"\nFinding: {text}")
    if out is not None:
        counts = {each.target: dict(each.fates) for each in rows}
        record = {"seed": seed, "minutes": minutes, "counts": counts, "findings": findings}
        write_json(out, record)
    sys.exit(1 if findings else 0)
