"""Workers that die, hang or return nonsense become rows that say so; no child is left behind."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import PATIENCE_S, PatientSession, faulty, wait_until
from numpy.typing import NDArray

from toolkit.data import Dataset, load_dataset
from toolkit.errors import Crashed, FailedRun, InputError, NotInstalled, Unsupported, WrongOutput
from toolkit.machine.allocator import can_keep_memory
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.expected import Expectations
from toolkit.parity.reference import Reference, References
from toolkit.processes.confinement import SWITCH, offered
from toolkit.schema import Settings, to_json
from toolkit.sessions.candidates import Candidate, Subject, checkpoint_candidate
from toolkit.sessions.checked import CheckedSession
from toolkit.sessions.remote import RemoteSession, open_sessions
from toolkit.sessions.runtimes.no_op import NoOpSession
from toolkit.sessions.worker import Worker

pytestmark = pytest.mark.usefixtures("no_child_is_left")

IMAGES = load_dataset("test").images[:250]
ONE_THREAD = Settings(threads=1)


def session_of(candidate: Candidate, *, timeout_s: float = PATIENCE_S) -> RemoteSession:
    return PatientSession(candidate, batch_size=100, timeout_s=timeout_s)


def null(subject: Subject) -> Candidate:
    return checkpoint_candidate(subject, "no-op", ONE_THREAD)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("segfault", "crashed", "SIGSEGV"),
        ("abort", "crashed", "SIGABRT"),
        ("kill", "crashed", "SIGKILL"),
        ("exit", "crashed", "exit code 0"),
        ("exit at load", "crashed", "exit code 7"),
        ("raise at load", "crashed", "RuntimeError: cannot load this"),
        ("raise", "crashed", "ValueError: no such operator"),
        ("memory", "out_of_memory", "MemoryError"),
        ("wrong shape", "crashed", "returned float32 [100, 9], expected float32 logits [100, 10]"),
        ("wrong count", "crashed", "returned float32 [99, 10]"),
        ("wrong dtype", "crashed", "returned float64 [100, 10]"),
        ("not an array", "crashed", "returned list []"),
        ("other threads", "unsupported", "requested 1 thread, fp32 on cpu"),
        ("other device", "unsupported", "the session runs 1 thread, fp32 on cuda"),
        ("other precision", "unsupported", "1 thread, fp16 on cpu"),
    ],
)
def test_worker_fault_has_a_status_and_a_reason(
    subject: Subject, fault: str, status: str, reason: str
) -> None:
    with session_of(faulty(subject, fault)) as session:
        with pytest.raises(FailedRun) as caught:
            list(session.predict([IMAGES], batch_size=100))
        assert caught.value.status == status
        assert reason in caught.value.reason
        with pytest.raises(FailedRun) as again:
            session.measure(calls=1)
        assert again.value is caught.value


def test_stderr_of_a_dead_worker_is_kept(subject: Subject) -> None:
    with session_of(faulty(subject, "segfault")) as session, pytest.raises(Crashed) as caught:
        list(session.predict([IMAGES], batch_size=100))
    assert "about to fault" in caught.value.stderr_tail
    assert "Segmentation fault" in caught.value.stderr_tail


def test_exception_in_a_worker_keeps_its_traceback(subject: Subject) -> None:
    with session_of(faulty(subject, "raise")) as session, pytest.raises(Crashed) as caught:
        list(session.predict([IMAGES], batch_size=100))
    assert "in run" in caught.value.stderr_tail


def test_hanging_worker_is_killed_and_reported(subject: Subject) -> None:
    with session_of(faulty(subject, "hang"), timeout_s=2) as session:
        with pytest.raises(FailedRun) as caught:
            list(session.predict([IMAGES], batch_size=100))
        assert (caught.value.status, caught.value.reason) == ("timed_out", "after 2 s")
        assert session.pid is not None
        assert not psutil.pid_exists(session.pid)


def test_child_processes_of_a_worker_end_with_it(subject: Subject) -> None:
    """For example a running compiler, which would take a core from the other candidates."""
    candidate = faulty(subject, "hang with a child")
    candidate = replace(candidate, runtime=replace(candidate.runtime, compiles=True))
    with session_of(candidate, timeout_s=2) as session:
        session.load()
        assert session.pid is not None
        (child,) = psutil.Process(session.pid).children(recursive=True)
        assert child.name() == "sleep"
        with pytest.raises(FailedRun, match="after 2 s"):
            list(session.predict([IMAGES], batch_size=100))

        def gone() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                return child.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return True

        wait_until(gone, "what the worker started is gone")


def test_page_faults_are_those_of_the_timed_calls() -> None:
    """Page faults of the preceding untimed call do not count."""
    pages = 5000

    def run(inputs: Any) -> NDArray[np.floating]:
        with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as memory:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1
        found: NDArray[np.floating] = inputs
        return found

    batches = [np.zeros((1, 1, 28, 28), np.float32)] * 2
    _, given = Worker()._time([run], batches, calls=1, offset=0, kept=0)
    assert pages <= given < 2 * pages


def test_worker_that_stops_reading_is_killed_and_reported(subject: Subject) -> None:
    chunks = [np.repeat(IMAGES, 40, axis=0)] * 4  # more than fits into a pipe
    with session_of(null(subject), timeout_s=2) as session:
        session.load()
        assert session.pid is not None
        os.kill(session.pid, signal.SIGSTOP)
        with pytest.raises(FailedRun) as caught:
            list(session.predict(chunks, batch_size=100))
    assert caught.value.status == "timed_out"


def test_a_worker_that_is_stopped_before_it_answers_is_killed_and_named(subject: Subject) -> None:
    with session_of(null(subject), timeout_s=2) as session:
        session.load()
        assert session.pid is not None
        os.kill(session.pid, signal.SIGSTOP)
        with pytest.raises(FailedRun, match="timed out: after 2 s"):
            session.measure(calls=1)
        assert not psutil.pid_exists(session.pid)


def test_a_worker_that_is_stopped_does_not_hold_up_the_end(subject: Subject) -> None:
    with session_of(null(subject)) as session:
        session.load()
        assert session.pid is not None
        os.kill(session.pid, signal.SIGSTOP)
    assert not psutil.pid_exists(session.pid)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes get 64 MB of memory."""
    for root, limits in (
        (Path("/sys/fs/cgroup/memory"), {"memory.limit_in_bytes": "64M", "memory.swappiness": "0"}),
        (Path("/sys/fs/cgroup"), {"memory.max": "64M", "memory.swap.max": "0"}),
    ):
        group = root / f"toolkit-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                if not (group / "cgroup.procs").exists():  # a plain folder
                    continue
                for name, value in limits.items():
                    (group / name).write_text(value)
                yield group
                return
            finally:
                wait_until(partial(_removed, group), "the control group is empty")
    pytest.skip("needs the right to make a control group")


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
        return True
    return False


def test_worker_that_the_kernel_kills_for_its_memory_is_out_of_memory(
    subject: Subject, small_group: Path
) -> None:
    with session_of(faulty(subject, "fill memory")) as session:
        session.load()
        (small_group / "cgroup.procs").write_text(str(session.pid))
        with pytest.raises(FailedRun) as caught:
            list(session.predict([IMAGES], batch_size=100))
    assert (caught.value.status, caught.value.reason) == (
        *("out_of_memory", "killed by the kernel (SIGKILL)"),
    )


def test_a_session_that_is_closed_while_it_starts_leaves_no_worker(subject: Subject) -> None:
    """This happens after Ctrl-C while other threads start the workers of a pass."""
    session = session_of(null(subject))
    session.close()
    with pytest.raises(Crashed, match="closed before it had started"):
        session.load()


def test_unnamed_signal_gives_a_failed_row(subject: Subject) -> None:
    with session_of(null(subject)) as session:
        session.load()
        assert session.pid is not None
        os.kill(session.pid, signal.SIGRTMIN + 3)
        with pytest.raises(Crashed, match=r"signal \d+"):
            session.measure(calls=1)


def test_missing_package_names_the_command_that_installs_it(subject: Subject) -> None:
    candidate = faulty(subject, "", package="no_such_package")
    with session_of(candidate) as session, pytest.raises(NotInstalled) as caught:
        session.load()
    assert caught.value.reason == "pip install 'toolkit[faulty]'"


def test_output_on_stdout_does_not_disturb_the_channel(subject: Subject) -> None:
    with session_of(faulty(subject, "noise")) as session:
        (logits,) = session.predict([IMAGES], batch_size=50)
    assert logits.shape == (250, 10)


def zeros(subject: Subject, dataset: Dataset) -> Basis:
    """A reference that agrees with a runtime that returns zeros; there are no special images."""

    def reference(images: int) -> Reference:
        return Reference(
            logits=np.zeros((images, 10)),
            labels=dataset.labels[:images],
            floors=np.full(images, 1e-6),
        )

    return Basis(
        subject=subject,
        dataset=dataset,
        references=References(
            data=reference(len(dataset)),
            special=reference(0),
            special_images=np.empty((0, 1, 28, 28), np.uint8),
            special_rows=np.empty(0, np.intp),
        ),
        expectations=Expectations.of(
            subject, dataset, reference(len(dataset)), threads=1, timeout_s=PATIENCE_S
        ),
        remarks=(),
    )


def test_other_workers_continue_when_one_is_killed(subject: Subject) -> None:
    dataset = load_dataset("test").head(250)
    candidates = [null(subject), faulty(subject, ""), null(subject)]
    basis = zeros(subject, dataset)
    check = ParityCheck(batch_size=100, timeout_s=PATIENCE_S)
    with open_sessions(candidates, batch_size=100, timeout_s=PATIENCE_S) as sessions:
        sessions[1].load()
        assert sessions[1].pid is not None
        os.kill(sessions[1].pid, signal.SIGSEGV)
        reports = [check.judge(session, basis)[0] for session in sessions]
    assert [report.status for report in reports] == ["passed", "crashed", "passed"]
    assert reports[1].reason == "SIGSEGV"
    assert [report.compared for report in reports] == [250, 0, 250]


@pytest.mark.skipif(not can_keep_memory(), reason="needs glibc")
def test_kept_memory_is_attested_and_set_in_the_worker(subject: Subject) -> None:
    """Otherwise glibc maps a block of 40 MiB separately and returns it when it is freed: its
    threshold never grows beyond 32 MiB."""

    def mapped_blocks(keep_memory: bool) -> str:
        candidate = faulty(subject, "large block")
        candidate = replace(candidate, settings=Settings(threads=1, keep_memory=keep_memory))
        with session_of(candidate) as session:
            attested = session.load().attestation
        assert attested.keep_memory is keep_memory
        return attested.provider

    assert mapped_blocks(keep_memory=False) == "1 mapped"
    assert mapped_blocks(keep_memory=True) == "0 mapped"


@pytest.mark.skipif(not can_keep_memory(), reason="needs glibc")
def test_with_kept_memory_later_calls_need_no_more_pages_than_without(subject: Subject) -> None:
    """How many pages they need without it depends on the allocator: possibly none if its threshold
    has grown. The network allocates 2,000 pages for its first layer alone."""

    def faults_per_call(keep_memory: bool) -> float:
        wanted = Settings(threads=1, keep_memory=keep_memory)
        with session_of(checkpoint_candidate(subject, "eager", wanted)) as session:
            session.prepare(IMAGES, batch_size=100)
            session.measure(calls=5)
            found = session.measure(calls=5)
        assert found.calls == 5
        return found.page_faults / found.calls

    assert faults_per_call(keep_memory=True) <= faults_per_call(keep_memory=False) + 256


def test_row_reports_that_memory_cannot_be_kept(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.sessions.worker.keep_memory", lambda: False)
    source = null(subject).source
    with pytest.raises(Unsupported, match=r"cannot keep memory; remove --keep-memory"):
        Worker().load(
            module="toolkit.sessions.runtimes.no_op",
            package="numpy",
            install="",
            path=str(source.path),
            artifact=to_json(source.artifact),
            settings=to_json(Settings(threads=1, keep_memory=True)),
            model=None,
            input=to_json(null(subject).input),
            batch_size=1,
        )


def test_few_images_are_repeated_to_fill_the_batches(subject: Subject) -> None:
    with session_of(null(subject)) as session:
        logits = session.prepare(IMAGES[:7], batch_size=3)
        assert logits.shape == (15, 10)
        assert [len(calls) for calls in session.measure(calls=6).samples_s] == [6]


def test_first_timed_call_has_another_input_than_the_previous_call() -> None:
    """Otherwise a runtime that caches its last answer would be timed while it uses the cache."""
    batches = [np.full((1, 1, 28, 28), number, np.float32) for number in range(5)]
    given: list[float] = []

    def run(inputs: Any) -> Any:
        given.append(float(inputs[0, 0, 0, 0]))
        return inputs

    Worker()._time([run], batches, calls=2, offset=7, kept=0)
    assert given == [1, 2, 3]


def test_measure_before_prepare_is_an_error(subject: Subject) -> None:
    with session_of(null(subject)) as session:
        session.load()
        with pytest.raises(
            Crashed, match="measure was called before prepare: there are no input batches"
        ):
            session.measure(calls=1)


def test_unexpected_logits_give_a_failed_row(subject: Subject) -> None:
    """This happens if a fresh worker computes something other than the verified one."""
    with session_of(null(subject)) as session:
        with pytest.raises(WrongOutput, match="this worker gave logits that differ by up to 1"):
            session.prepare(IMAGES, batch_size=50, expected=np.ones((250, 10), np.float32))
        with pytest.raises(WrongOutput):
            session.measure(calls=1)


def test_streams_with_other_attestations_are_refused(subject: Subject) -> None:
    with (
        session_of(faulty(subject, "other streams", streams=2)) as session,
        pytest.raises(Unsupported, match="its 2 streams run differently") as caught,
    ):
        session.load()
    assert "use --streams 1" in caught.value.reason
    with session_of(faulty(subject, "other streams")) as session:
        assert session.load().attestation.streams == 1


def test_nan_fails_the_verdict_and_is_counted(subject: Subject) -> None:
    dataset = load_dataset("test").head(250)
    basis = zeros(subject, dataset)
    check = ParityCheck(batch_size=50, timeout_s=PATIENCE_S, explain=False)
    with session_of(faulty(subject, "nan")) as session:
        report, _ = check.judge(session, basis)
    assert (report.status, report.nan_count) == ("failed", 4)


def test_runtime_that_writes_into_its_input_fails(subject: Subject) -> None:
    """Its later calls would get other images than the given ones."""
    with (
        session_of(faulty(subject, "writes into its input")) as session,
        pytest.raises(WrongOutput, match=r"changed 78,400 of 78,400 values of its input"),
    ):
        session.load()


def test_threads_are_set_before_any_library_loads(subject: Subject) -> None:
    candidate = faulty(subject, "", threads=2)
    with session_of(candidate) as session:
        assert session.load().attestation.version == "2"  # what its module saw when it was imported


@pytest.mark.skipif(
    not offered().startswith("Landlock") or "only" in offered(), reason=f"here: {offered()}"
)
def test_worker_reaches_nothing_that_is_not_its_business(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with session_of(faulty(subject, f"reach {tmp_path}")) as session:
        attested = session.load().attestation
        assert session.attest().confinement == attested.confinement
    assert attested.version == "10 of 10 refused"
    assert attested.confinement == offered()
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_worker_says_that_it_is_not_confined(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    with session_of(null(subject)) as session:
        confinement = session.load().attestation.confinement
    assert confinement == "not confined: TOOLKIT_UNCONFINED is set"


def test_worker_ends_when_its_driver_is_killed(subject: Subject, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys, time, pickle\n"
        "from pathlib import Path\n"
        "from toolkit.sessions.candidates import checkpoint_candidate, find_subject\n"
        "from toolkit.schema import Settings\n"
        "from toolkit.sessions.remote import RemoteSession\n"
        "subject = find_subject([Path(sys.argv[1])], checkpoint=Path(sys.argv[2]), model=None)\n"
        "candidate = checkpoint_candidate(subject, 'no-op', Settings(threads=1))\n"
        f"session = RemoteSession(candidate, batch_size=1, timeout_s={PATIENCE_S})\n"
        "session.load()\n"
        "print(session.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    import subprocess
    import sys

    folder = subject.artifacts[0].path.parent
    driver = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(subject.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert psutil.pid_exists(pid)
    driver.kill()
    driver.communicate()
    wait_until(lambda: not psutil.pid_exists(pid), "the worker is gone")


def checked(subject: Subject) -> CheckedSession:
    artifact = null(subject).source.artifact
    return CheckedSession(NoOpSession(artifact.classes, Settings(threads=1)), artifact)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 1, 28, 28), np.float64),
        np.zeros((2, 1, 28, 27), np.float32),
        np.zeros((2, 3, 28, 28), np.float32),
        np.zeros((1, 28, 28), np.float32),
        np.zeros((0, 1, 28, 28), np.float32),
        np.full((1, 1, 28, 28), np.nan, np.float32),
        np.full((1, 1, 28, 28), np.inf, np.float32),
    ],
    ids=["dtype", "width", "channels", "rank", "batch 0", "nan", "inf"],
)
def test_bad_input_never_reaches_the_runtime(
    subject: Subject, inputs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    session = checked(subject)
    with pytest.raises(InputError, match=r"expected .*float32 \[N, 1, 28, 28\]"):
        session.run(inputs)
