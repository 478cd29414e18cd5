"""The contract that every format and runtime in the tables must fulfil.

Runtimes that are not installed are skipped, unless TOOLKIT_REQUIRED_RUNTIMES (comma-separated
names) requires them.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import psutil
import pytest
import torch
from conftest import CHECKPOINT, PATIENCE_S

from toolkit.artifacts.export import export
from toolkit.artifacts.formats import known_formats
from toolkit.data import load_dataset
from toolkit.errors import ArtifactError, Crashed, FailedRun
from toolkit.files import sha256_of, size_of
from toolkit.processes.confinement import SWITCH
from toolkit.schema import Device, Evidence, Precision, Settings, to_json
from toolkit.sessions.candidates import NO_OP, Candidate, Subject, find_candidates, find_subject
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, known_runtimes
from toolkit.sessions.worker import Worker

IMAGES = load_dataset("test").images[:250]
CLOSE = 1e-4  # logit units; float32 rounding changes these logits by less than 1e-5
RUNTIMES, FORMATS = known_runtimes(), known_formats()  # including installed plug-ins
REQUIRED = os.environ.get("TOOLKIT_REQUIRED_RUNTIMES", "").split(",")


class Row(NamedTuple):
    """The subject of a test: an artifact in a runtime, on one of its devices."""

    runtime: str
    format: str
    precision: Precision
    device: Device


# Allowed arithmetic, by requested precision.
ARITHMETIC: dict[str, set[str]] = {
    "fp32": {"float32", "float32 (Winograd)"},
    "fp16": {"float32 on float16 weights", "float32 (Winograd)", "float16"},
    "int8": {"int8", "float32 on int8 values"},
    "int8-dynamic": {"int8 (dynamic)"},
    "int8-weights": {"float32 on int8 weights", "float32 (Winograd)"},
}


def closeness(session: RemoteSession) -> float:
    """Return the allowed difference of logits. int8-dynamic takes its ranges from the whole batch,
    so the logits of an image change slightly with the other images, but not its prediction."""
    return 0.1 if session.candidate.source.artifact.precision == "int8-dynamic" else CLOSE


def precisions_of(format_name: str) -> tuple[Precision, ...]:
    return FORMATS[format_name].precisions if format_name in FORMATS else ("fp32",)


REFUSE_NETWORK = """
import os, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{arguments}}\\n")
        raise RuntimeError("no network here")
sys.addaudithook(refuse)
"""

ROWS: list[Row] = [
    Row(runtime.name, format_name, precision, device)
    for runtime in RUNTIMES.values()
    for format_name in runtime.formats
    for precision in precisions_of(format_name)
    if runtime.loads(format_name, precision)
    for device in runtime.devices
    if device == "cpu" or format_name not in runtime.cpu_formats
]
PAIRS = [row for row in ROWS if row.precision == "fp32"]  # independent of the precision
ROWS = [*PAIRS, *(row for row in ROWS if row not in PAIRS)]  # one order, so that workers are shared
SLOW = {"fp16", "int8", "int8-dynamic", "int8-weights"}
START_A_COMPILER = {"compile", "aotinductor"}


def names(rows: list[Row]) -> list[str]:
    """Return a name for each row; the device is left out if it is the runtime's first one."""
    return [
        "-".join(row if row.device != RUNTIMES[row.runtime].devices[0] else row[:-1])
        for row in rows
    ]


def params(rows: list[Row]) -> list[Any]:
    """Return the rows as parameters; those that only CI's slow part tests are marked."""
    return [
        pytest.param(
            row,
            id=name,
            marks=[pytest.mark.slow]
            if row.precision in SLOW or row.runtime in START_A_COMPILER
            else [],
        )
        for row, name in zip(rows, names(rows), strict=True)
    ]


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Precision], Subject]:
    """Export a format's artifact in a precision on first use."""

    @functools.cache
    def make(format_name: str, precision: Precision) -> Subject:
        folder = tmp_path_factory.mktemp(f"exported-{format_name}-{precision}")
        done = export(CHECKPOINT, out=folder, formats=[format_name], precisions=[precision])
        assert not done.failures, done.failures[0].failure.stderr_tail
        return find_subject([folder], checkpoint=CHECKPOINT, model=None)

    return make


class Candidates:
    """Creates the candidate of a row, or skips the test and says what is missing."""

    def __init__(self, exported: Callable[[str, Precision], Subject]) -> None:
        self._exported = exported

    def __call__(self, row: Row, threads: int) -> Candidate:
        runtime, format_name, precision = RUNTIMES[row.runtime], row.format, row.precision
        settings = Settings(threads=threads, device=row.device)
        if not runtime.runs_on(settings.device):
            pytest.skip(f"{runtime.name} runs on {', '.join(runtime.systems or ())}")
        if settings.device == "cuda" and not torch.cuda.is_available():
            pytest.skip(f"{runtime.name} needs a CUDA device, torch finds none")
        if runtime.version() is None and runtime.name not in REQUIRED:
            pytest.skip(f"{runtime.name} is not installed: {runtime.install}")
        found_format = FORMATS.get(format_name)
        if found_format and found_format.missing() and runtime.name not in REQUIRED:
            pytest.skip(f"{format_name} cannot be written: {found_format.install}")
        subject = self._exported("torchscript" if found_format is None else format_name, precision)
        found = find_candidates(subject, [runtime.name], settings)
        return next(
            each
            for each in found
            if (each.source.artifact.format, each.source.artifact.precision)
            == (format_name, precision)
        )


@pytest.fixture(scope="session")
def candidate_of(exported: Callable[[str, Precision], Subject]) -> Candidates:
    return Candidates(exported)


@pytest.fixture(scope="module", params=params(ROWS))
def session(request: pytest.FixtureRequest, candidate_of: Candidates) -> Iterator[RemoteSession]:
    """One worker with two threads for each runtime and artifact it loads; the tests of a row share
    it."""
    candidate = candidate_of(request.param, threads=2)
    with RemoteSession(candidate, batch_size=100, timeout_s=PATIENCE_S) as opened:
        yield opened


on_pairs = pytest.mark.parametrize("session", params(PAIRS), indirect=True, scope="module")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A worker with one thread, started without the variables of CI, because libraries may disable
    telemetry there. `log` records the network requests of the worker and its child processes;
    `home` is empty at the start."""

    session: RemoteSession
    log: Path
    home: Path


@pytest.fixture(scope="module")
def watched(
    session: RemoteSession, candidate_of: Candidates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """The artifact of `session` in a watched worker."""
    folder = tmp_path_factory.mktemp("watched")
    log, home, site = folder / "log", folder / "home", folder / "site"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(REFUSE_NETWORK.format(log=str(log)))
    source, runtime = session.candidate.source.artifact, session.candidate.runtime
    device = session.candidate.settings.device
    row = Row(runtime.name, source.format, source.precision, device)
    candidate = candidate_of(row, threads=1)
    with RemoteSession(candidate, batch_size=100, timeout_s=PATIENCE_S) as opened:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "OMP_WAIT_POLICY"):
                patch.delenv(name, raising=False)
            patch.setenv("HOME", str(home))
            patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
            patch.setenv(SWITCH, "1")  # otherwise nothing could be logged
            opened.load()
        yield Watched(session=opened, log=log, home=home)


def logits_of(
    session: RemoteSession,
    *,
    batch_size: int,
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = IMAGES,
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.concatenate(list(session.predict([images], batch_size=batch_size)))


def test_any_batch_size_gives_the_same_logits(session: RemoteSession) -> None:
    wanted = logits_of(session, batch_size=100)  # 100, 100 and a ragged 50
    for batch_size, count in ((1, 10), (7, 45), (250, 250)):  # 7: a ragged 3
        found = logits_of(session, batch_size=batch_size, images=IMAGES[:count])
        assert found.shape == (count, 10)
        np.testing.assert_allclose(found, wanted[:count], atol=closeness(session), rtol=0)


def test_position_in_the_batch_does_not_matter(session: RemoteSession) -> None:
    order = np.random.default_rng(0).permutation(len(IMAGES))
    wanted = logits_of(session, batch_size=100)[order]
    np.testing.assert_allclose(
        logits_of(session, batch_size=100, images=IMAGES[order]),
        wanted,
        atol=closeness(session),
        rtol=0,
    )


def test_repeated_runs_agree_bit_for_bit(session: RemoteSession) -> None:
    once, twice = (logits_of(session, batch_size=100) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_logits_classify_the_digits(session: RemoteSession) -> None:
    if session.candidate.runtime.name == NO_OP:
        pytest.skip("the no-op runtime computes nothing")
    labels = load_dataset("test").labels[: len(IMAGES)]
    assert np.mean(logits_of(session, batch_size=100).argmax(1) == labels) > 0.97


def test_session_attestation_matches_the_settings(session: RemoteSession) -> None:
    attested = session.load().attestation
    assert attested.runtime == session.candidate.runtime.name
    candidate = session.candidate
    assert attested.threads == (1 if candidate.runtime.one_thread else 2)
    assert attested.precision == candidate.source.artifact.precision
    assert attested.version
    assert attested.provider
    assert attested.arithmetic in ARITHMETIC[attested.precision]
    assert set(attested.evidence) == {"provider", "precision", "threads", "arithmetic"}
    assert set(attested.evidence.values()) <= set(get_args(Evidence))


def test_session_attests_the_same_when_asked_again(session: RemoteSession) -> None:
    """Only the files that have computed something may differ."""
    first = session.load().attestation
    logits_of(session, batch_size=100)
    assert replace(session.attest(), files=()) == replace(first, files=())


@pytest.mark.parametrize("row", params(PAIRS))
def test_plain_session_computes_plain_sums(candidate_of: Candidates, row: Row) -> None:
    usual = candidate_of(row, threads=1)
    plain = replace(usual, settings=replace(usual.settings, plain=True))
    with (
        RemoteSession(usual, batch_size=50, timeout_s=300) as fast,
        RemoteSession(plain, batch_size=50, timeout_s=300) as slow,
    ):
        assert slow.load().attestation.arithmetic == "float32"
        winograd = fast.load().attestation.arithmetic == "float32 (Winograd)"
        assert winograd == (row.runtime in ("ncnn", "mnn"))
        found, wanted = logits_of(slow, batch_size=50), logits_of(fast, batch_size=50)
        np.testing.assert_allclose(found, wanted, atol=CLOSE, rtol=0)
        if winograd:
            assert not np.array_equal(found, wanted)


def test_load_and_first_inference_are_timed_separately(session: RemoteSession) -> None:
    loaded = session.load()
    assert min(loaded.import_s, loaded.load_s, loaded.first_inference_s) > 0


def test_peak_memory_is_the_workers_own(session: RemoteSession) -> None:
    session.load()
    assert 10e6 < session.peak_memory_bytes() < 4e9


def test_timed_calls_are_counted(session: RemoteSession) -> None:
    session.prepare(IMAGES[:200], batch_size=100)
    (samples_s,) = session.measure(calls=5).samples_s
    assert len(samples_s) == 5
    assert min(samples_s) > 0


@pytest.mark.parametrize("row", params(PAIRS))
def test_concurrent_streams_give_the_same_logits_as_one(candidate_of: Candidates, row: Row) -> None:
    """Each stream's outputs are compared with those of the first stream inside the worker."""
    if RUNTIMES[row.runtime].one_stream:
        pytest.skip(f"{row.runtime} computes one call at a time per process")
    alone = candidate_of(row, threads=1)
    candidate = replace(alone, settings=replace(alone.settings, streams=2))
    with RemoteSession(candidate, batch_size=50, timeout_s=PATIENCE_S) as opened:
        opened.prepare(IMAGES, batch_size=50)
        for repeat in (False, True):
            found = opened.measure(calls=6, repeat=repeat)
            assert [len(calls) for calls in found.samples_s] == [6, 6]
        assert opened.load().attestation.streams == 2


def test_idle_worker_uses_no_cpu(session: RemoteSession) -> None:
    """Threads may spin for a while after a call; how long depends on the runtime and the
    machine."""
    session.prepare(IMAGES[:100], batch_size=100)
    session.measure(calls=5)
    process = psutil.Process(session.pid)

    def idle() -> bool:
        before = sum(process.cpu_times()[:2])
        threading.Event().wait(1.0)
        return sum(process.cpu_times()[:2]) - before <= 0.05

    assert any(idle() for _ in range(10))


LOAD_AGAIN_AND_AGAIN = """
import gc, json, sys
from toolkit.sessions.worker import Worker
arguments, loads = json.loads(sys.stdin.read()), int(sys.argv[1])
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
worker, sizes = Worker(), []
for _ in range(loads):
    worker.load(**arguments)
    sizes.append(resident())
print(sizes[loads // 5], sizes[-1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("row", params(PAIRS))
def test_memory_stays_flat_over_repeated_loads(candidate_of: Candidates, row: Row) -> None:
    """From the 20th load of 100 to the last; `compile` takes seconds per load, and loads 20
    times."""
    arguments = load_arguments(candidate_of(row, threads=1))
    loads = 20 if row.runtime == "compile" else 100
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AGAIN_AND_AGAIN, str(loads)],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split()[-2:])
    assert late < 1.05 * early + 10e6


@on_pairs
def test_one_and_two_threads_agree_in_concurrent_workers(
    session: RemoteSession, watched: Watched
) -> None:
    assert watched.session.load().attestation.threads == 1
    wanted = 1 if session.candidate.runtime.one_thread else 2
    assert session.load().attestation.threads == wanted
    np.testing.assert_allclose(
        logits_of(watched.session, batch_size=100),
        logits_of(session, batch_size=100),
        atol=CLOSE,
        rtol=0,
    )


@on_pairs
def test_session_uses_no_network_and_does_not_write_to_home(
    session: RemoteSession, watched: Watched
) -> None:
    logits_of(watched.session, batch_size=100)
    assert not watched.log.exists(), watched.log.read_text()
    own_cache = watched.home / ".cache" / "toolkit"  # of compiled code
    found = [each for each in watched.home.rglob("*") if each.is_file()]
    assert [each for each in found if not each.is_relative_to(own_cache)] == []


@on_pairs
def test_wrong_input_shape_is_a_clear_error_and_ends_the_worker(
    session: RemoteSession, watched: Watched
) -> None:
    """The last request to the watched worker."""
    for _ in range(2):
        with pytest.raises(
            Crashed, match=r"shape \[10, 1, 28, 27\], expected float32 \[N, 1, 28, 28\]"
        ):
            list(watched.session.predict([IMAGES[:10, :, :, :27]], batch_size=10))


FILE_PAIRS = [row for row in PAIRS if row.format != CHECKPOINT_FORMAT]


def largest_file(path: Path) -> Path:
    """Return the largest file of a folder artifact, or the file itself."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return max(files, key=lambda each: each.stat().st_size)


def truncate(path: Path) -> None:
    path = largest_file(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    path = largest_file(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    largest_file(path).write_bytes(b"")


def remove(path: Path) -> None:
    largest_file(path).unlink()


def copy_to(folder: Path, path: Path) -> Path:
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    return Path(shutil.copy(path, folder))


def load_arguments(candidate: Candidate) -> dict[str, Any]:
    """Return the arguments that a worker receives."""
    return {
        **{"module": candidate.runtime.module, "package": candidate.runtime.package},
        **{"install": "", "path": str(candidate.source.path), "model": None, "batch_size": 10},
        "artifact": to_json(candidate.source.artifact),
        "settings": to_json(candidate.settings),
        "input": to_json(candidate.input),
    }


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, remove])
@pytest.mark.parametrize("row", params(FILE_PAIRS))
def test_damaged_file_is_refused_before_the_runtime_sees_it(
    candidate_of: Candidates,
    tmp_path: Path,
    row: Row,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here the worker's own code runs in this process: no runtime is imported."""
    monkeypatch.setattr(
        "toolkit.sessions.worker.import_loader", lambda *_: pytest.fail("was imported")
    )
    candidate = candidate_of(row, threads=1)
    copy = copy_to(tmp_path, candidate.source.path)
    damage(copy)
    damaged = replace(candidate, source=replace(candidate.source, path=copy))
    with pytest.raises(ArtifactError, match="toolkit export --format"):
        Worker().load(**load_arguments(damaged))


def test_damaged_file_gives_a_failed_row(candidate_of: Candidates, tmp_path: Path) -> None:
    candidate = candidate_of(Row("onnxruntime", "onnx", "fp32", "cpu"), threads=1)
    copy = copy_to(tmp_path, candidate.source.path)
    truncate(copy)
    damaged = replace(candidate, source=replace(candidate.source, path=copy))
    with (
        RemoteSession(damaged, batch_size=10, timeout_s=PATIENCE_S) as session,
        pytest.raises(Crashed, match=r"ArtifactError: .*toolkit export --format"),
    ):
        session.load()


@pytest.mark.parametrize("row", params(FILE_PAIRS))
def test_truncated_file_with_a_matching_record_gives_a_failed_row(
    candidate_of: Candidates, tmp_path: Path, row: Row
) -> None:
    candidate = candidate_of(row, threads=1)
    copy = copy_to(tmp_path, candidate.source.path)
    truncate(copy)
    record = replace(candidate.source.artifact, sha256=sha256_of(copy), size_bytes=size_of(copy))
    damaged = replace(candidate, source=replace(candidate.source, path=copy, artifact=record))
    with (
        RemoteSession(damaged, batch_size=10, timeout_s=PATIENCE_S) as session,
        pytest.raises(FailedRun) as caught,
    ):
        session.load()
    assert caught.value.status == "crashed"


class RunsCode:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "entry",
    [
        "data/sample_inputs/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/constants/opaque_obj_x/e",
    ],
)
def test_pickle_inside_a_pt2_does_not_run(
    candidate_of: Candidates, tmp_path: Path, entry: str
) -> None:
    candidate = candidate_of(Row("pt2", "pt2", "fp32", "cpu"), threads=1)
    marker, evil, copy = tmp_path / "ran", tmp_path / "evil", tmp_path / "model.pt2"
    torch.save((RunsCode(marker),), evil)
    with zipfile.ZipFile(candidate.source.path) as old, zipfile.ZipFile(copy, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            if name != f"{root}/{entry}":
                new.writestr(zipfile.ZipInfo(name), old.read(name))
        new.writestr(zipfile.ZipInfo(f"{root}/{entry}"), evil.read_bytes())
    record = replace(
        candidate.source.artifact, sha256=sha256_of(copy), size_bytes=copy.stat().st_size
    )
    trap = replace(candidate, source=replace(candidate.source, path=copy, artifact=record))
    with (
        RemoteSession(trap, batch_size=10, timeout_s=PATIENCE_S) as session,
        pytest.raises(FailedRun, match=r"refused|weights_only|Weights only|UnpicklingError"),
    ):
        session.load()
    assert not marker.exists()


def test_every_format_has_a_runtime_that_loads_it() -> None:
    loaded = {format_name for row in RUNTIMES.values() for format_name in row.formats}
    assert set(FORMATS) <= loaded
