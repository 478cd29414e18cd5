"""Runs cases through `toolkit.verify`, and reads its verdicts.

In: cases. Out: outcomes. Cases on the same bed and in the same runtime share one run, so the
reference is computed only once; each artifact has its own worker, as always.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.formats import find_format
from toolkit.data import load_dataset
from toolkit.errors import ToolkitError, ToolkitWarning
from toolkit.parity.verify import verify
from toolkit.schema import Device, ParityReport
from toolkit.sessions.runtimes import RUNTIMES, Runtime
from toolkit.settings import SessionOptions

from .beds import Bed, mnist_bed
from .nets import own_beds
from .records import Case, Outcome

MISBEHAVING = "misbehaving"

_TIMEOUT_S = 300.0
_MOST_TOGETHER = 15
Say = Callable[[str], None]
Labels = NDArray[np.int64]
Row = ParityReport | str


@contextmanager
def misbehaving_runtime() -> Iterator[None]:
    """Add a row to the table of runtimes: ONNX Runtime that behaves as its file's name says."""
    before = dict(RUNTIMES)
    RUNTIMES[MISBEHAVING] = Runtime(
        name=MISBEHAVING,
        module=f"{__package__}.misbehaving",
        package="onnxruntime",
        distributions=("onnxruntime",),
        formats=("onnx",),
        install="pip install onnxruntime",
        opt_in=True,
        devices=RUNTIMES["onnxruntime"].devices,
    )
    try:
        yield
    finally:
        RUNTIMES.clear()
        RUNTIMES.update(before)


@dataclass(eq=False)
class Harness:
    """Judges cases in a scratch folder, on `device`. `images` is the size of the reference
    checkpoint's beds."""

    scratch: Path
    images: int = 2000
    device: Device = "cpu"
    say: Say = lambda text: None
    _beds: dict[str, Bed] = field(default_factory=dict)
    _calls: int = 0

    def judge(
        self, cases: Iterable[Case], *, done: Callable[[list[Outcome]], None] = lambda found: None
    ) -> list[Outcome]:
        """Return the outcome of each case, in the same order; `done` is called after each run of
        verify."""
        given = list(cases)
        found: dict[int, Outcome] = {}
        for group in _groups(given):
            outcomes = self._judge_together(group)
            found.update((id(case), each) for case, each in zip(group, outcomes, strict=True))
            done(outcomes)
        return [found[id(case)] for case in given]

    def bed(self, name: str) -> Bed:
        """Return the bed of that name, created on first use."""
        if self.images < _WHOLE and name in _BY_SIZE:
            name = "mnist"  # one bed is enough if all have few images
        if name not in self._beds:
            folder = self.scratch / f"bed-{name.replace(' ', '-')}"
            folder.mkdir(parents=True)
            if name in _MNIST_BEDS:
                self._beds[name] = _MNIST_BEDS[name](folder, self.images)
            else:
                self._beds[name] = own_beds()[name](folder)
        return self._beds[name]

    def _judge_together(self, cases: list[Case]) -> list[Outcome]:
        self._calls += 1
        folder = self.scratch / f"call-{self._calls}"
        bed = self.bed(cases[0].bed)
        self.say(f"{bed.name} {cases[0].format} in {cases[0].runtime}: {len(cases)} cases")
        lost = bed.plant(cases, folder)
        built = [case for case in cases if case.name not in lost]
        try:
            rows = self._verify(bed, built, folder)
        except ToolkitError as error:
            if len(built) > 1:  # one of them failed: judge each separately
                return [one for case in cases for one in self._judge_together([case])]
            text = str(error).replace(f"{folder}/../", "").replace(f"{self.scratch}/", "")
            rows = {case.name: text for case in built}
        finally:
            shutil.rmtree(folder)
        rows |= lost
        return [_outcome(case, rows[case.name], built=case.name not in lost) for case in cases]

    def _verify(self, bed: Bed, cases: list[Case], folder: Path) -> dict[str, Row]:
        """Return the row of each case, or the reason why there is none."""
        if not cases:
            return {}
        first = cases[0]
        options: dict[str, Any] = dict(first.options)
        with misbehaving_runtime(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "--trust: running", ToolkitWarning)
            results = verify(
                [folder],
                runtimes=[first.runtime],
                data=bed.data,
                model=bed.trusted,
                trust=True,  # files with planted faults are not those that export wrote
                session=SessionOptions(
                    batch_size=first.batch_size,
                    threads=first.threads,
                    device=self.device,
                    timeout_s=options.pop("timeout_s", _TIMEOUT_S),
                ),
                **options,
            )
        rows: dict[str, Row] = {}
        names = {f"{case.slug}{find_format(case.format).suffix}": case.name for case in cases}
        for row in results.parity:
            if row.format == "checkpoint":
                rows[first.name] = row
            for each in results.artifacts:  # files with the same bytes are judged once
                if each.sha256 == row.artifact_sha256:
                    rows[names[each.path]] = row
        return rows


def runs_on(case: Case, device: Device) -> bool:
    """Return whether the runtime of a case supports the device."""
    with misbehaving_runtime():
        return device in RUNTIMES[case.runtime].devices


def _groups(cases: list[Case]) -> list[list[Case]]:
    """Return groups of cases for one run of verify, small enough that a failure costs little."""
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        key = (case.bed, case.runtime, case.batch_size, case.threads, *case.options.items())
        groups.setdefault(key, []).append(case)
    return [
        group[at : at + _MOST_TOGETHER]
        for group in groups.values()
        for at in range(0, len(group), _MOST_TOGETHER)
    ]


def _outcome(case: Case, row: Row, *, built: bool) -> Outcome:
    if isinstance(row, str):
        named = next((word for word in sorted(case.cause) if word in row), None)
        status = "refused" if built else "not built"
        return Outcome(case=case, status=status, reason=row, cause=named)
    report, cause = row, row.cause
    return Outcome(
        case=case,
        status=report.status,
        reason=report.reason or "",
        flips=report.flips,
        floors=report.max_diff_in_floors,
        difference=report.max_abs_diff,
        cause=None if cause is None else cause.kind,
        cause_text="" if cause is None else cause.text,
    )


def _mnist(
    name: str, images: int | None, relabel: Callable[[Labels], Labels] = lambda labels: labels
) -> Callable[[Path, int], Bed]:
    """Return a bed with this number of images, or with all of them."""
    return lambda folder, most: mnist_bed(folder, images, name=name, relabel=relabel)


def _labels_of_others(labels: Labels) -> Labels:
    return load_dataset("train").labels[: len(labels)]


_WHOLE = 1000  # images; a harness with fewer runs the short version
_BY_SIZE = ("mnist 300", "mnist 10000")
_MNIST_BEDS: dict[str, Callable[[Path, int], Bed]] = {
    "mnist": lambda folder, images: mnist_bed(folder, images),
    "mnist 300": _mnist("mnist 300", 300),
    "mnist 10000": _mnist("mnist 10000", None),
    "labels shuffled": _mnist(
        "labels shuffled", None, lambda y: np.random.default_rng(0).permutation(y)
    ),
    "labels of others": _mnist("labels of others", None, _labels_of_others),
    "labels from 1": _mnist("labels from 1", None, lambda y: (y + 1) % 10),
    "labels equal": _mnist("labels equal", None, lambda y: np.zeros_like(y)),
}


def scratch_cache(folder: Path) -> None:
    """Keep references in a folder of this run, not in the user's."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
