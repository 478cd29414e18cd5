"""What every format and every runtime promises; the tables say who is tested.

A runtime that is not installed is skipped, unless TOOLKIT_REQUIRED_RUNTIMES (names with commas)
says that it may not be.
"""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from toolkit.candidates import NULL, Candidate, Subject, line_up
from toolkit.data import load_dataset
from toolkit.errors import Crashed, FailedRun
from toolkit.files import sha256_of
from toolkit.formats import FORMATS
from toolkit.runtimes import CHECKPOINT_FORMAT, RUNTIMES
from toolkit.schema import Settings
from toolkit.targets import RemoteSession

IMAGES = load_dataset("test").images[:250]
CLOSE = 1e-4  # logit units; float32 rounding moves these logits by less than 1e-5
REQUIRED = os.environ.get("TOOLKIT_REQUIRED_RUNTIMES", "").split(",")
PAIRS = [
    (runtime.name, format_name) for runtime in RUNTIMES.values() for format_name in runtime.formats
]


def candidate_of(subject: Subject, runtime: str, format_name: str, threads: int) -> Candidate:
    row = RUNTIMES[runtime]
    if row.version() is None and runtime not in REQUIRED:
        pytest.skip(f"{runtime} is not installed: {row.install}")
    found = line_up(subject, [runtime], Settings(threads=threads))
    return next(each for each in found if each.source.artifact.format == format_name)


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def session(request: pytest.FixtureRequest, subject: Subject) -> Iterator[RemoteSession]:
    """One worker for each runtime and format it loads; the tests of a pair share it."""
    runtime, format_name = request.param
    candidate = candidate_of(subject, runtime, format_name, threads=2)
    with RemoteSession(candidate, batch_size=100, timeout_s=120) as opened:
        yield opened


def logits_of(
    session: RemoteSession,
    *,
    batch_size: int,
    order: np.ndarray[tuple[int], np.dtype[np.intp]] | None = None,
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    images = IMAGES if order is None else IMAGES[order]
    return np.concatenate(list(session.predict([images], batch_size=batch_size)))


def test_any_batch_size_gives_the_same_logits(session: RemoteSession) -> None:
    wanted = logits_of(session, batch_size=100)  # 100, 100 and a ragged 50
    for batch_size in (1, 7, 250):
        found = logits_of(session, batch_size=batch_size)
        assert found.shape == (250, 10)
        np.testing.assert_allclose(found, wanted, atol=CLOSE, rtol=0)


def test_place_in_the_batch_does_not_matter(session: RemoteSession) -> None:
    order = np.random.default_rng(0).permutation(len(IMAGES))
    wanted = logits_of(session, batch_size=100)[order]
    np.testing.assert_allclose(
        logits_of(session, batch_size=100, order=order), wanted, atol=CLOSE, rtol=0
    )


def test_repeated_runs_agree_bit_for_bit(session: RemoteSession) -> None:
    once, twice = (logits_of(session, batch_size=100) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_logits_tell_the_digits(session: RemoteSession) -> None:
    if session.candidate.runtime.name == NULL:
        pytest.skip("the null runtime computes nothing")
    labels = load_dataset("test").labels[: len(IMAGES)]
    assert np.mean(logits_of(session, batch_size=100).argmax(1) == labels) > 0.97


def test_session_attests_what_runs(session: RemoteSession) -> None:
    attested = session.load().attestation
    assert attested.runtime == session.candidate.runtime.name
    assert (attested.threads, attested.precision) == (2, "fp32")
    assert attested.version
    assert attested.provider


def test_load_and_first_inference_are_timed_apart(session: RemoteSession) -> None:
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


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_streams_run_at_the_same_time_and_say_the_same_as_one(
    subject: Subject, pair: tuple[str, str]
) -> None:
    """Each stream's outputs are compared with the first one's inside the worker."""
    alone = candidate_of(subject, *pair, threads=1)
    candidate = replace(alone, settings=Settings(threads=1, streams=2))
    with RemoteSession(candidate, batch_size=50, timeout_s=120) as opened:
        opened.prepare(IMAGES, batch_size=50)
        for repeat in (False, True):
            found = opened.measure(calls=6, repeat=repeat)
            assert [len(calls) for calls in found.samples_s] == [6, 6]
        assert opened.load().attestation.streams == 2


def test_idle_worker_is_idle(session: RemoteSession) -> None:
    session.prepare(IMAGES[:100], batch_size=100)
    session.measure(calls=5)
    process = psutil.Process(session.pid)
    before = sum(process.cpu_times()[:2])
    threading.Event().wait(1.0)
    assert sum(process.cpu_times()[:2]) - before <= 0.05


REFUSE_NETWORK = """
import os, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{arguments}}\\n")
        raise RuntimeError("no network here")
sys.addaudithook(refuse)
"""


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_nothing_goes_to_a_network_nor_into_the_users_home(
    subject: Subject, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user runs it: not in CI, where telemetry may hold back. Child processes count."""
    log, home, site = tmp_path / "log", tmp_path / "home", tmp_path / "site"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(REFUSE_NETWORK.format(log=str(log)))
    for name in ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    candidate = candidate_of(subject, *pair, threads=1)
    with RemoteSession(candidate, batch_size=100, timeout_s=120) as session:
        logits_of(session, batch_size=100)
    assert not log.exists(), log.read_text()
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_one_and_two_threads_agree_in_two_workers_at_once(
    subject: Subject, pair: tuple[str, str]
) -> None:
    first = candidate_of(subject, *pair, threads=1)
    second = candidate_of(subject, *pair, threads=2)
    with (
        RemoteSession(first, batch_size=100, timeout_s=120) as one,
        RemoteSession(second, batch_size=100, timeout_s=120) as two,
    ):
        assert one.load().attestation.threads == 1
        assert two.load().attestation.threads == 2
        np.testing.assert_allclose(
            logits_of(one, batch_size=100), logits_of(two, batch_size=100), atol=CLOSE, rtol=0
        )


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_wrong_input_shape_is_a_clear_error(subject: Subject, pair: tuple[str, str]) -> None:
    candidate = candidate_of(subject, *pair, threads=1)
    with (
        RemoteSession(candidate, batch_size=10, timeout_s=120) as session,
        pytest.raises(Crashed, match=r"shape \[10, 1, 28, 27\], expected float32 \[N, 1, 28, 28\]"),
    ):
        list(session.predict([IMAGES[:10, :, :, :27]], batch_size=10))


FILE_PAIRS = [pair for pair in PAIRS if pair[1] != CHECKPOINT_FORMAT]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, Path.unlink])
@pytest.mark.parametrize("pair", FILE_PAIRS, ids=["-".join(pair) for pair in FILE_PAIRS])
def test_damaged_file_is_refused_before_the_runtime_sees_it(
    subject: Subject, tmp_path: Path, pair: tuple[str, str], damage: object
) -> None:
    candidate = candidate_of(subject, *pair, threads=1)
    copy = Path(shutil.copy(candidate.source.path, tmp_path))
    assert callable(damage)
    damage(copy)
    damaged = replace(candidate, source=replace(candidate.source, path=copy))
    with (
        RemoteSession(damaged, batch_size=10, timeout_s=120) as session,
        pytest.raises(Crashed, match=r"ArtifactError: .*toolkit export --format"),
    ):
        session.load()


@pytest.mark.parametrize("pair", FILE_PAIRS, ids=["-".join(pair) for pair in FILE_PAIRS])
def test_truncated_file_with_a_matching_record_is_a_row_not_the_end(
    subject: Subject, tmp_path: Path, pair: tuple[str, str]
) -> None:
    candidate = candidate_of(subject, *pair, threads=1)
    copy = Path(shutil.copy(candidate.source.path, tmp_path))
    truncate(copy)
    record = replace(
        candidate.source.artifact, sha256=sha256_of(copy), size_bytes=copy.stat().st_size
    )
    damaged = replace(candidate, source=replace(candidate.source, path=copy, artifact=record))
    with (
        RemoteSession(damaged, batch_size=10, timeout_s=120) as session,
        pytest.raises(FailedRun) as caught,
    ):
        session.load()
    assert caught.value.status == "crashed"


class RunsCode:
    """A pickle of this makes a file when it is loaded."""

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
def test_pickle_inside_a_pt2_does_not_run(subject: Subject, tmp_path: Path, entry: str) -> None:
    candidate = candidate_of(subject, "pt2", "pt2", threads=1)
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
        RemoteSession(trap, batch_size=10, timeout_s=120) as session,
        pytest.raises(FailedRun, match=r"refused|weights_only|Weights only|UnpicklingError"),
    ):
        session.load()
    assert not marker.exists()


def test_every_format_has_a_runtime_that_loads_it() -> None:
    loaded = {format_name for row in RUNTIMES.values() for format_name in row.formats}
    assert set(FORMATS) <= loaded
