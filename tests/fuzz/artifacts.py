"""Artifacts of every format, damaged and verified in real workers.

In: healthy exports of a small checkpoint. Out: what became of each damaged copy. Its manifest
records the new size and checksum, so the runtime itself must cope with the bytes. Whether a pass is
right is computed here again, from the logits.
"""

from __future__ import annotations

import random
import shutil
import traceback
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.export import export
from toolkit.artifacts.formats import known_formats
from toolkit.artifacts.manifest import read_manifest, write_manifest
from toolkit.data import load_dataset
from toolkit.errors import ToolkitError, printable
from toolkit.files import files_in, sha256_of, size_of
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.reference import Reference
from toolkit.schema import Artifact, ParityReport, Settings, Status
from toolkit.sessions.candidates import Candidate, find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, known_runtimes
from toolkit.timing import Stopwatch

from .counts import Fate
from .model import write_checkpoint, write_data

IMAGES = 40  # fewer do not decide
_BATCH_SIZE = 10
_TRUST = True  # programs among the artifacts run: they are our own, damaged by accident
_HEAD_BYTES = 2048
_MOST_TIMEOUTS = (
    3  # a damaged file may time out in the row's session and in the one without Winograd
)
_FATES: dict[Status, Fate] = {
    "passed": "passed",
    "failed": "failed",
    "undecided": "failed",
    "timed_out": "timed out",
}


@dataclass(frozen=True)
class Pair:
    """A runtime and a format that it loads."""

    runtime: str
    format: str

    def __str__(self) -> str:
        return self.format if self.runtime == self.format else f"{self.format} in {self.runtime}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one damaged copy; `change` says how to make it again."""

    fate: Fate
    change: str
    reason: str


class Exports:
    """Healthy exports in a folder, with their checkpoint and images; made if they are missing."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = folder / "exports"
        self.checkpoint = folder / "checkpoint"
        self.data = folder / "data"
        self.formats = [name for name in formats if not known_formats()[name].missing()]
        write_checkpoint(self.checkpoint)
        write_data(self.data, IMAGES)
        done = export(self.checkpoint, out=self.folder, formats=self.formats)
        self.lost = {each.format: str(each.failure) for each in done.failures}

    def record(self, format: str) -> Artifact:
        """Return the record of a format's artifact."""
        artifacts = read_manifest(self.folder).artifacts
        return next(each for each in artifacts if each.format == format)

    def pairs(self) -> list[Pair]:
        """Return every installed runtime on the CPU with every format that it loads."""
        written = {each.format for each in read_manifest(self.folder).artifacts}
        return [
            Pair(row.name, format)
            for row in known_runtimes().values()
            if row.version() and row.runs_on("cpu")
            for format in row.formats
            if format in written and format != CHECKPOINT_FORMAT and row.loads(format, "fp32")
        ]


class Verifier:
    """Verifies damaged copies of the exports against their checkpoint."""

    def __init__(self, exports: Exports, scratch: Path, *, timeout_s: float) -> None:
        self._exports = exports
        self._scratch = scratch
        self._timeout_s = timeout_s
        self._check = ParityCheck(batch_size=_BATCH_SIZE, timeout_s=timeout_s, explain=False)
        self._basis = self._make_basis()

    def _make_basis(self) -> Basis:
        subject = find_subject(
            [self._exports.folder], checkpoint=self._exports.checkpoint, model=None
        )
        dataset = load_dataset("test", self._exports.data)
        return self._check.basis(subject, dataset, Settings(threads=1))

    def healthy(self, pair: Pair) -> Outcome:
        """Verify the healthy artifact: it must pass, or the damage shows nothing."""
        return self._outcome(pair, "no change", lambda path: None)

    def damaged(self, pair: Pair, seed: int) -> Outcome:
        """Verify a copy with the damage of this seed."""
        damage = Damage(random.Random(f"{pair} {seed}"))
        return self._outcome(pair, f"seed {seed}", damage)

    def _outcome(self, pair: Pair, name: str, change: Callable[[Path], object]) -> Outcome:
        folder = self._scratch / f"{pair} {name}".replace(" ", "-")
        folder.mkdir(parents=True)
        watch = Stopwatch()
        try:
            candidate, what = self._plant(pair, folder, change)
            with RemoteSession(
                candidate, batch_size=_BATCH_SIZE, timeout_s=self._timeout_s
            ) as session:
                report, logits = self._check.judge(session, self._basis)
            fate = fate_of(report, logits, self._basis.references.data)
            reason = report.reason or ""
        except ToolkitError as error:
            fate, reason, what = "refused", printable(str(error)), name
        except Exception:  # noqa: BLE001 - this is what the fuzzer looks for
            fate, reason, what = "driver crash", traceback.format_exc(), name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if watch.elapsed_s() > _MOST_TIMEOUTS * self._timeout_s:
            fate, reason = "hang", f"{watch.elapsed_s():.0f} s; {reason}"
        return Outcome(fate=fate, change=f"{pair}, {name}: {what}", reason=reason)

    def _plant(
        self, pair: Pair, folder: Path, change: Callable[[Path], object]
    ) -> tuple[Candidate, str]:
        """Write the damaged copy with a manifest that agrees with it, and find it as verify
        does."""
        record = self._exports.record(pair.format)
        path = folder / record.path
        _copy(self._exports.folder / record.path, path)
        what = change(path)
        record = replace(record, size_bytes=size_of(path), sha256=sha256_of(path))
        manifest = read_manifest(self._exports.folder)
        write_manifest(folder, replace(manifest, artifacts=(record,)))
        subject = find_subject(
            [folder], checkpoint=self._exports.checkpoint, model=None, trust=_TRUST
        )
        candidates = find_candidates(subject, [pair.runtime], Settings(threads=1))
        found = next(each for each in candidates if each.source.artifact.format == pair.format)
        return found, str(what)


def fate_of(
    report: ParityReport, logits: NDArray[np.floating] | None, reference: Reference
) -> Fate:
    """Return what the row is, and compare the logits `[N,K]` of a pass once more."""
    if report.status != "passed":
        return _FATES.get(report.status, "crashed")
    limit = report.gates.max_floors
    if logits is None or limit is None or logits.shape != reference.logits.shape:
        return "wrong pass"
    far = np.abs(logits.astype(np.float64) - reference.logits)
    spacing = np.spacing(np.abs(reference.logits).astype(np.float32))
    near = far <= limit * np.maximum(reference.floors[:, None], spacing)
    return "passed" if near.all() else "wrong pass"


class Damage:
    """One random change of an artifact; says what it did."""

    def __init__(self, random: random.Random) -> None:
        self._random = random

    def __call__(self, path: Path) -> str:
        """Change a file, or one of the files of a folder."""
        files = files_in(path) if path.is_dir() else [path]
        chosen = self._random.choice(files)
        if zipfile.is_zipfile(chosen) and self._random.random() < 0.5:
            return self._inside(chosen)
        content, what = self._changed(chosen.read_bytes())
        chosen.write_bytes(content)
        return f"{chosen.name}: {what}"

    def _inside(self, path: Path) -> str:
        """Change one member of an archive, so that its own checksums agree."""
        with zipfile.ZipFile(path) as archive:
            members = [(each, archive.read(each)) for each in archive.infolist()]
        at = self._random.randrange(len(members))
        member, content = members[at]
        changed, what = self._changed(content)
        members[at] = (member, changed)
        with closing(zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)) as archive:
            for each, data in members:
                archive.writestr(each.filename, data)
        return f"{member.filename} in {path.name}: {what}"

    def _changed(self, content: bytes) -> tuple[bytes, str]:
        if not content:
            return b"\0", "one byte for none"
        kind = self._random.choice(["flip"] * 6 + ["truncate"] * 2 + ["extend", "zeros", "swap"])
        at = self._place(len(content))
        data = bytearray(content)
        if kind == "flip":
            bit = self._random.randrange(8)
            data[at] ^= 1 << bit
            return bytes(data), f"bit {bit} of byte {at} of {len(content)}"
        if kind == "truncate":
            return content[:at], f"truncated to {at} of {len(content)} bytes"
        if kind == "extend":
            more = self._random.randbytes(self._random.choice([1, 8, 4096]))
            return content + more, f"{len(more)} bytes more than {len(content)}"
        size = min(self._random.choice([1, 4, 16, 256]), len(content) - at)
        data[at : at + size] = bytes(size) if kind == "zeros" else data[at : at + size][::-1]
        return bytes(data), f"{kind} of {size} bytes at {at} of {len(content)}"

    def _place(self, size: int) -> int:
        """Return a position: at the beginning, at the end, or anywhere."""
        part = self._random.randrange(3)
        near = self._random.randrange(min(size, _HEAD_BYTES))
        return near if part == 0 else size - 1 - near if part == 1 else self._random.randrange(size)


def _copy(source: Path, path: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
