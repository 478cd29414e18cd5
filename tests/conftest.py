"""Shared fixtures: the reference checkpoint, its exports, and small data made from MNIST."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Threads of OpenMP sleep while they wait, here and in workers. By default they spin, which costs
# many times the work itself if there are more threads than cores. torch reads this on import.
os.environ["OMP_WAIT_POLICY"] = "passive"

import hypothesis
import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.cli import commands
from toolkit.data import load_dataset
from toolkit.machine import capacity
from toolkit.schema import Settings
from toolkit.sessions.candidates import Candidate, Subject, find_subject
from toolkit.sessions.messages import Loaded
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import RUNTIMES, Runtime, Source

REPOSITORY = Path(__file__).parent.parent
CHECKPOINT = REPOSITORY / "models" / "mnist-cnn"

USUAL = [row.name for row in FORMATS.values() if row.usual]

# Time after which a worker, a command or a state is considered lost. No test depends on the speed
# of the machine or on other load: every limit that only ends a wait in a test is this one, unless
# the end itself is tested.
PATIENCE_S = 1800.0

# Examples may take any time: a deadline would fail on a busy machine.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

Cli = Callable[..., Result]
IdxWriter = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep references and trusted programs in folders of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def temporary_folders() -> Iterator[Path]:
    """The folder that holds the temporary folder of each test. Its name is short, because sockets
    of PyTorch's data loaders lie below it, whose paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_temporary_folder(temporary_folders: Path) -> Iterator[None]:
    """Commands sweep the temporary folder, and say so: they must find nothing of another test."""
    folder = temporary_folders / uuid.uuid4().hex[:12]
    folder.mkdir()
    # Not the fixture `monkeypatch`: it would be undone after `runtimes_in_order`.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def limits_unknown() -> Iterator[None]:
    """Leave the machine's limits unmeasured in this process: measuring takes seconds each time, and
    few tests need them. Commands in separate processes measure them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_CHILD", "not_asked_for")
        yield


@pytest.fixture(autouse=True)
def runtimes_in_order() -> Iterator[None]:
    """A row that a test removes returns at the end of the table, so restore the order."""
    rows = dict(RUNTIMES)
    yield
    RUNTIMES.clear()
    RUNTIMES.update(rows)


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The committed reference checkpoint. Read-only."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default formats of the reference checkpoint. Read-only."""
    folder = tmp_path_factory.mktemp("exports")
    export(CHECKPOINT, out=folder)
    return folder


@pytest.fixture(scope="session")
def subject(exports: Path) -> Subject:
    """The reference checkpoint and its exports."""
    return find_subject([exports], checkpoint=CHECKPOINT, model=None)


def faulty(
    subject: Subject,
    fault: str,
    *,
    name: str = "faulty",
    package: str = "numpy",
    threads: int = 1,
    streams: int = 1,
) -> Candidate:
    """A candidate that fails as `fault` says; see tests/faulty.py."""
    onnx = next(stored for stored in subject.artifacts if stored.record.format == "onnx")
    return Candidate(
        runtime=Runtime(
            name=name,
            module="faulty",
            package=package,
            distributions=("numpy",),
            formats=("onnx",),
            install="pip install 'toolkit[faulty]'",
        ),
        source=Source(path=onnx.path, artifact=onnx.record, model=fault),
        settings=Settings(threads=threads, streams=streams),
        input=subject.checkpoint.input,
    )


class PatientSession(RemoteSession):
    """A session whose worker may take any time to start and load. The given limit applies only
    afterwards, so a test may use a short one."""

    def load(self) -> Loaded:
        limit_s, self._timeout_s = self._timeout_s, PATIENCE_S
        try:
            return super().load()
        finally:
            self._timeout_s = limit_s


def wait_until(reached: Callable[[], object], what: str) -> None:
    """Wait for a state, however long it takes; `what` names it if it never comes."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, f"after {PATIENCE_S:g} s, still not: {what}"
        time.sleep(0.2)


@pytest.fixture
def no_child_is_left() -> Iterator[None]:
    """Check that no workers are left, whatever went wrong."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before


@pytest.fixture
def own_exports(exports: Path, tmp_path: Path) -> Path:
    """A copy of the exports that a test may damage, with a manifest that finds the checkpoint."""
    folder = tmp_path / "exports"
    shutil.copytree(exports, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checkpoint"] = str(CHECKPOINT)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def own_checkpoint(tmp_path: Path) -> Path:
    """A copy of the reference checkpoint that a test may damage."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files with 600 training and 250 test images of MNIST: a ragged last batch of 50."""
    folder = tmp_path_factory.mktemp("small")
    for split, stem, count in (("train", "train", 600), ("test", "t10k", 250)):
        dataset = load_dataset("train" if split == "train" else "test")
        write_idx(folder / f"{stem}-images-idx3-ubyte", dataset.images[:count, 0])
        write_idx(folder / f"{stem}-labels-idx1-ubyte", dataset.labels[:count].astype(np.uint8))
    return folder


def installed_pairs(*formats: str) -> list[tuple[str, str]]:
    """Runtime and format of the default rows, in order."""
    return [
        (row.name, name)
        for row in RUNTIMES.values()
        if row.version() is not None and row.name != "no-op" and not row.opt_in
        for name in row.formats
        if name in formats
    ]


def write_idx(path: Path, values: NDArray[np.uint8]) -> Path:
    """Write uint8 values as an IDX file, compressed if the name ends in .gz."""
    header = bytes([0, 0, 0x08, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    data = header + values.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_images(folder: Path, images: NDArray[np.uint8], labels: Sequence[int]) -> Path:
    """Write images `[N,C,H,W]` as PNG files, the same ones for training and test."""
    for split in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / f"class {label}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = len(pixels) == 1
            Image.fromarray(pixels[0] if grey else pixels.transpose(1, 2, 0)).save(path)
    return folder


@pytest.fixture
def cli() -> Cli:
    """Run the command line in this process: `cli("verify", folder).exit_code`."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(commands, [str(argument) for argument in arguments])

    return run
