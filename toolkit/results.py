"""Results on disk: `results.json`, with Markdown for people and CSV for plots.

Results start with the known facts and are written completely after each row.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from toolkit.artifacts.manifest import find_relative, relative_to
from toolkit.data import Dataset
from toolkit.errors import OutputError, ToolkitError
from toolkit.files import (
    RESULTS_BYTES,
    check_writable,
    read_json,
    write_atomically,
    write_json,
)
from toolkit.files.paths import StrPath, as_path
from toolkit.interruption import installed
from toolkit.machine.environment import describe_environment
from toolkit.places import without_places
from toolkit.report.csv import render_csv
from toolkit.report.markdown import render_markdown
from toolkit.schema import (
    RESULTS_SCHEMA_VERSION,
    TUNING_SCHEMA_VERSION,
    CheckpointRecord,
    Comparison,
    Results,
    Tuning,
    from_json,
    to_json,
)
from toolkit.sessions.candidates import Subject

RESULTS = "results.json"
TUNING = "tuning.json"
Record = TypeVar("Record")
SCHEMA = Path(__file__).parent / "results.schema.json"


def start_results(subject: Subject, dataset: Dataset) -> Results:
    """Create results without rows: machine, data set, checkpoint and its artifacts."""
    checkpoint = subject.checkpoint
    return Results(
        schema_version=RESULTS_SCHEMA_VERSION,
        environment=describe_environment(),
        dataset=dataset.record,
        checkpoint=CheckpointRecord(
            name=checkpoint.name,
            path=without_places(str(subject.folder)),
            sha256=checkpoint.sha256,
            accuracy=checkpoint.training.accuracy if checkpoint.training else None,
            training=checkpoint.training,
            class_names=checkpoint.class_names,
        ),
        artifacts=tuple(stored.record for stored in subject.artifacts),
        command=without_places(shlex.join(["toolkit", *sys.argv[1:]])) if installed() else None,
    )


def write_results(path: Path, results: Results) -> None:
    """Write `results.json` atomically."""
    write_json(path, to_json(results))


def write_folder(folder: Path, results: Results) -> None:
    """Write all three files, each atomically.

    Raises:
        OutputError: Not writable, or the disk is full.
    """
    write_results(folder / RESULTS, results)
    write_atomically(folder / "results.md", render_markdown(results))
    write_atomically(folder / "results.csv", render_csv(results))


def write_report(path: StrPath, results: Results, comparison: Comparison | None = None) -> None:
    """Write the page of results, with what changed since an older run if it is given, atomically.

    Raises:
        OutputError: Not writable, or the disk is full.
    """
    from toolkit.report.page import render_page  # it imports a template engine

    write_atomically(as_path(path), render_page(results, comparison))


def refuse_to_mix(folder: Path) -> None:
    """Raise OutputError if the folder holds the results of another run, or is not writable."""
    if (folder / RESULTS).exists():
        raise OutputError(f"{folder} already holds {RESULTS}; choose another folder with --out")
    check_writable(folder / RESULTS)


def words_after_interruption(done: str, out: Path | None, again: str) -> str:
    """Return what is finished, where it is kept, and what the same command would do. A folder with
    results takes no others."""
    kept = "" if out is None else f" and kept in {out / RESULTS}"
    elsewhere = "" if out is None else " with another --out"
    return f"{done}{kept}; the same command{elsewhere} {again}"


def read_results(path: StrPath) -> Results:
    """Read `results.json`. `path` is the file or the folder that holds it.

    Raises:
        ToolkitError: Missing, damaged, not a results file, or of another schema version.
    """
    path = as_path(path)
    file = path / RESULTS if path.is_dir() else path
    return _read(
        Results,
        "results",
        file,
        RESULTS_SCHEMA_VERSION,
        f"{RESULTS} of bench, verify or run, or the folder that holds it",
        "toolkit bench --out DIR",
    )


def read_tuning(path: StrPath) -> Tuning:
    """Read `tuning.json`. `path` is the file or the folder that holds it.

    Raises:
        ToolkitError: Missing, damaged, not a tuning file, of another schema version, or without a
            recommendation.
    """
    path = as_path(path)
    file = path / TUNING if path.is_dir() else path
    found = _read_tuning(file)
    if found.recommended is None:
        raise ToolkitError(
            f"{path} contains no recommendation: {found.why}; run toolkit tune again"
        )
    names = [trial.name for trial in found.trials]
    if not {found.recommended, found.baseline} <= {*names}:
        raise ToolkitError(
            f"{path} recommends {found.recommended!r} over {found.baseline!r}, but its trials are "
            f"{', '.join(names) or 'none'}; run toolkit tune again"
        )

    def absolute(name: str) -> str:
        beside = find_relative(file.parent.resolve(), name)
        # Older files name artifacts relative to the folder that `tune` was called in.
        return os.path.normpath(beside) if beside.exists() else name

    return _with_paths(found, absolute)


def read_results_or_tuning(path: StrPath) -> Results | Tuning:
    """Read what a command wrote. `path` is `results.json`, `tuning.json`, or a folder that holds
    one of them; if it holds both, its results are read.

    Raises:
        ToolkitError: Missing, damaged, neither of the two, or of another schema version.
    """
    path = as_path(path)
    if path.is_dir() and (path / TUNING).exists() and not (path / RESULTS).exists():
        return _read_tuning(path / TUNING)
    with contextlib.suppress(OSError, ValueError):
        if "trials" in read_json(path, most_bytes=RESULTS_BYTES):
            return _read_tuning(path)
    return read_results(path)


def _read_tuning(file: Path) -> Tuning:
    return _read(
        Tuning,
        "tuning",
        file,
        TUNING_SCHEMA_VERSION,
        f"{TUNING} of tune, or the folder that holds it",
        "toolkit tune --out DIR",
    )


def write_tuning(path: Path, tuning: Tuning) -> None:
    """Write what `tune` found, atomically. It names its artifacts relative to `path`, so that both
    can be moved, and the file says nothing about this machine."""

    def relative(name: str) -> str:
        return relative_to(path.parent, Path(name))

    write_json(path, to_json(_with_paths(tuning, relative)))


def _with_paths(tuning: Tuning, change: Callable[[str], str]) -> Tuning:
    """Return the tuning with the paths of all artifacts changed."""
    trials = []
    for each in tuning.trials:
        artifact_path = change(each.configuration.artifact_path)
        configuration = replace(each.configuration, artifact_path=artifact_path)
        trials.append(replace(each, configuration=configuration))
    return replace(tuning, trials=tuple(trials))


def _read(
    kind: type[Record], noun: str, file: Path, version: int, expected: str, again: str
) -> Record:
    try:
        return from_json(kind, read_json(file, most_bytes=RESULTS_BYTES), version=version)
    except OSError as error:
        raise ToolkitError(
            f"cannot read {file}: {error.strerror or error}; expected {expected}"
        ) from error
    except ValueError as error:
        raise ToolkitError(
            f"{file}: not a {noun} file of this version: {error}; create it again with: {again}"
        ) from error
