"""No process and no half file outlives a command, however it ends; the next command deletes what a
killed one could not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import CHECKPOINT, PATIENCE_S, Cli, wait_until

from toolkit.artifacts.manifest import find_artifacts
from toolkit.files import locks
from toolkit.files.locks import locked_file, locked_folder
from toolkit.processes.confinement import Confinement, Needs

ENDING = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
HANGS_S = 3600
GONE_S = 60.0  # a hanging process would not end by itself


def start(*arguments: object, tmp: Path) -> subprocess.Popen[str]:
    """Start a command in its own session, as from a terminal; its temporary folder is `tmp`."""

    def usual_signals() -> None:
        """A shell starts background commands with some ignored, and their children inherit that."""
        for each in ENDING:
            signal.signal(each, signal.SIG_DFL)

    tmp.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "toolkit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp)},
        preexec_fn=usual_signals,
    )


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
        return bool(int(caught.split()[1], 16) & (1 << (number - 1)))
    return process.poll() is not None


def cpu_s(process: subprocess.Popen[str]) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(sum(psutil.Process(process.pid).cpu_times()[:2]))
    return float("inf")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the handled signals from /proc")
@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("begun_s", [0.0, 0.05, 0.1, 0.3, 1.0])
def test_signal_while_the_command_starts_leaves_no_traceback(
    tmp_path: Path, number: signal.Signals, begun_s: float
) -> None:
    """From the first moment in which it has a handler, while it imports its libraries."""
    out = tmp_path / "out"
    process = start("export", CHECKPOINT, "--format", "onnx", "--out", out, tmp=tmp_path / "tmp")
    wait_until_exactly(lambda: handles(process, signal.SIGHUP))
    wait_until_exactly(lambda: cpu_s(process) >= begun_s)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (128 + number, ""), stderr
    assert "Traceback" not in stderr
    assert stderr.startswith("Error: interrupted")
    assert not out.exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def wait_until_exactly(reached: Callable[[], bool]) -> None:
    """Wait for a state that passes quickly."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


DRIVERS = {
    "converter": f"""
from toolkit.files.scratch import temporary_folder
from toolkit.processes.child import run_apart
from toolkit.processes.confinement import Needs
with temporary_folder("export") as scratch:
    needs = Needs(programs=True)
    run_apart("sleeper", {{}}, scratch, what="sleeper", timeout_s={HANGS_S}, needs=needs)
""",
    "worker": f"""
from pathlib import Path
from conftest import faulty
from toolkit.sessions.candidates import find_subject
from toolkit.sessions.remote import RemoteSession
import numpy as np
exports, checkpoint = map(Path, sys.argv[1:])
subject = find_subject([exports], checkpoint=checkpoint, model=None)
session = RemoteSession(faulty(subject, "hang"), batch_size=1, timeout_s={HANGS_S})
session.load()
list(session.predict([np.zeros((9, 1, 28, 28), np.uint8)], batch_size=1))
""",
}
SLEEPER = f"""
import subprocess, time
subprocess.Popen(["sleep", "{HANGS_S}"])
time.sleep({HANGS_S})
"""


@contextlib.contextmanager
def driver_with_hanging_child(
    kind: str, exports: Path, tmp_path: Path
) -> Iterator[tuple[psutil.Process, list[psutil.Process]]]:
    """A process whose child never ends by itself, and the processes below it."""
    modules = tmp_path / "modules"
    for folder in (modules, tmp_path / "tmp"):
        folder.mkdir()
    (modules / "sleeper.py").write_text(SLEEPER)
    code = f"import sys; sys.path += {[str(modules), str(Path(__file__).parent)]!r}\n"
    driver = subprocess.Popen(
        [sys.executable, "-c", code + DRIVERS[kind], str(exports), str(CHECKPOINT)],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,
    )
    below: list[psutil.Process] = []

    def hangs() -> bool:
        assert driver.poll() is None, "the driver ended"
        below[:] = psutil.Process(driver.pid).children(recursive=True)
        return len(below) >= (2 if kind == "converter" else 1) and all(map(asleep, below))

    try:
        wait_until(hangs, "the child hangs")
        yield psutil.Process(driver.pid), below
    finally:
        driver.kill()
        driver.wait()
        for each in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def asleep(process: psutil.Process) -> bool:
    """Whether it uses no CPU for a moment, after its start."""
    with contextlib.suppress(psutil.NoSuchProcess):
        before_s = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        return process.status() != psutil.STATUS_RUNNING and (
            sum(process.cpu_times()[:2]) - before_s < 0.05
        )
    return False


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("kind", DRIVERS)
def test_nothing_outlives_a_killed_driver(kind: str, exports: Path, tmp_path: Path) -> None:
    with driver_with_hanging_child(kind, exports, tmp_path) as (driver, below):
        driver.kill()
        _, still = psutil.wait_procs([driver, *below], timeout=GONE_S)
        assert not [each for each in still if alive(each)]


@pytest.mark.skipif(sys.platform != "linux", reason="a thread watches the pipe elsewhere")
def test_child_that_starts_after_its_driver_was_killed_ends(tmp_path: Path) -> None:
    """It opens its end of the pipe when the other end is closed already."""
    start_sh = ["sh", "-c", '"$@" & wait $!', "sh"]
    with Confinement(tmp_path, Needs()) as confined:
        command = [*confined.command, "-c", "print('went on')"]
        with_driver = subprocess.run(command, capture_output=True, text=True, check=False)
        without = subprocess.run(
            [*start_sh, *command],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
    assert with_driver.stdout == "went on\n", with_driver.stderr
    assert (without.returncode, without.stdout) == (128 + signal.SIGKILL, "")


@pytest.mark.parametrize("kind", DRIVERS)
def test_next_command_says_and_deletes_what_a_killed_one_left(
    kind: str, exports: Path, tmp_path: Path
) -> None:
    tmp = tmp_path / "tmp"
    with driver_with_hanging_child(kind, exports, tmp_path) as (driver, below):
        name = {"converter": "export"}.get(kind, kind)
        (folder,) = tmp.glob(f"toolkit-{name}-*")
        running = start("runtimes", tmp=tmp)
        _, stderr = running.communicate(timeout=PATIENCE_S)
        assert (running.returncode, stderr) == (0, "")  # the folder has an owner
        for each in [driver, *below]:
            each.kill()
        psutil.wait_procs([driver, *below], timeout=PATIENCE_S)
    after = start("runtimes", tmp=tmp)
    _, stderr = after.communicate(timeout=PATIENCE_S)
    (line,) = stderr.splitlines()
    assert line.startswith("Warning: deleted what a killed command had left behind: ")
    assert str(folder) in line
    assert list(tmp.iterdir()) == []


@pytest.mark.slow
def test_export_killed_in_the_middle_succeeds_when_it_is_run_again(tmp_path: Path) -> None:
    out, tmp = tmp_path / "out", tmp_path / "tmp"
    arguments = ("export", CHECKPOINT, "--format", "onnx", "--out", out)
    killed = start(*arguments, tmp=tmp)
    wait_until_exactly(lambda: bool(list(out.glob(".part-*"))) or killed.poll() is not None)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert list(out.glob(".part-*"))
    assert (out / ".toolkit.lock").exists()
    other = start("runtimes", tmp=tmp)  # also a command that knows nothing of `out`
    _, stderr = other.communicate(timeout=PATIENCE_S)
    assert "deleted what a killed command had left behind" in stderr
    assert not list(out.glob(".part-*"))
    again = start(*arguments, tmp=tmp)
    _, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, stderr
    files = {path.name for path in out.iterdir()}
    assert files == {"manifest.json", "mnist-cnn.onnx", "mnist-cnn.onnx.md"}
    # torch creates an empty folder of its own when it is imported.
    left = [path for path in tmp.iterdir() if not path.name.startswith("torchinductor_")]
    assert left == []


@pytest.mark.slow
def test_two_exports_into_one_folder_at_once_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [
        start("export", CHECKPOINT, "--format", name, "--out", out, tmp=tmp_path / "tmp")
        for name in ("onnx", "torchscript")
    ]
    ends = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    assert {process.returncode for process in both} <= {0, 2}, ends
    refused = [end for process, end in zip(both, ends, strict=True) if process.returncode]
    assert len(refused) < 2
    for end in refused:
        assert "in use by process" in end
    names = {stored.record.format for stored in find_artifacts([out])}
    assert len(names) == 2 - len(refused)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", CHECKPOINT, "--format", "onnx"),
        ("train", "--data", "{data}", "--device", "cpu"),
        ("bench", "{exports}/mnist-cnn.onnx", "--runtime", "onnxruntime", "--data", "{data}"),
        ("run", "--checkpoint", CHECKPOINT, "--data", "{data}"),
        ("tune", "{exports}/mnist-cnn.onnx", "--runtime", "onnxruntime", "--data", "{data}"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_is_refused_while_another_one_writes_there(
    arguments: tuple[object, ...],
    own_exports: Path,
    small_data: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "_SHORT_S", 0.0)
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)
    out = tmp_path / "out"
    given = [str(each).format(data=small_data, exports=own_exports) for each in arguments]
    tunes = arguments[0] == "tune"
    busy = out / "tuning.json" if tunes else out
    with locked_file(busy) if tunes else locked_folder(busy):
        result = cli(*given, "--out", out)
        assert result.exit_code == 2, result.output
        last = result.stderr.splitlines()[-1]
        assert last.startswith(f"Error: {busy} is in use by process {os.getpid()} (")
        assert last.endswith("wait until that has ended, or choose another place with --out")
        left = {path.name for path in out.iterdir()} if out.exists() else set()
        assert left == {".tuning.json.lock" if tunes else ".toolkit.lock"}


PROGRAM = """
import atexit, os, sys
from toolkit.files import scratch
from toolkit.cli import main

def look():
    print("left:", [each for each in os.listdir(os.environ["TMPDIR"]) if "toolkit" in each])

atexit.register(look)  # runs before what was registered earlier
sys.argv = ["toolkit", *sys.argv[1:]]
main()
"""


def test_nothing_is_left_when_the_interpreter_begins_to_end(tmp_path: Path) -> None:
    """From then on, a signal ends the process at once."""
    place = tmp_path / "temporary"
    place.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            "export",
            "--format",
            "torchscript",
            "--out",
            tmp_path / "ex",
        ],
        env={**os.environ, "TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "left: []" in done.stdout
