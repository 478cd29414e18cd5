"""Two commands never write to one place at once; nothing of the lock is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import PATIENCE_S

from toolkit.errors import OutputError, ToolkitWarning
from toolkit.files import locks
from toolkit.files.locks import locked_file, locked_folder

HOLD = """
import sys
from pathlib import Path
from toolkit import interruption
from toolkit.files import locks
interruption.end_at_once()
sys.argv = ["toolkit", "export"]
with locks.{kind}(Path({path!r})):
    print("held", flush=True)
    input()
    Path({path!r}).joinpath("of the first").write_text("complete")
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_SHORT_S", 0.0)
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)


@contextmanager
def held(path: Path, kind: str = "locked_folder") -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, until it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(kind=kind, path=str(path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["locked_folder", "locked_file"])
def test_second_command_is_refused_and_told_who_is_at_work(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    with held(path, kind) as process:
        busy = rf"out is in use by process {process.pid} \(toolkit export\); wait"
        with (
            pytest.warns(ToolkitWarning, match=busy),
            pytest.raises(OutputError, match=f"{busy} until that has ended, or choose .*--out"),
            getattr(locks, kind)(path),
        ):
            raise AssertionError


def test_second_command_waits_for_one_that_is_ending(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with held(path) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locks, "_SHORT_S", PATIENCE_S)
            with locked_folder(path):
                assert (path / "of the first").read_text() == "complete"
    assert [each.name for each in path.iterdir()] == ["of the first"]


@pytest.mark.usefixtures("impatient")
def test_lock_of_a_killed_command_is_free_and_its_files_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with held(path) as process:
        (path / ".part-abcd1234").mkdir()
        process.kill()
        process.wait()
        assert (path / ".toolkit.lock").exists()
        with (
            pytest.warns(ToolkitWarning, match="deleted what a killed command"),
            locked_folder(path),
        ):
            (path / "of the second").touch()
    assert [each.name for each in path.iterdir()] == ["of the second"]


def test_folder_that_stays_empty_is_deleted_with_its_parents(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked_folder(tmp_path / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    with locked_folder(tmp_path / "kept"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.usefixtures("impatient")
def test_two_files_in_one_folder_are_written_at_once(tmp_path: Path) -> None:
    with locked_file(tmp_path / "a.json"), locked_file(tmp_path / "b.json"):
        assert {path.name for path in tmp_path.iterdir()} == {".a.json.lock", ".b.json.lock"}
    assert list(tmp_path.iterdir()) == []


COUNT = """
import sys
from pathlib import Path
from toolkit.files import locks
locks._SHORT_S = {patience_s}
counter = Path({path!r}) / "counter"
for _ in range(20):
    with locks.locked_folder(counter.parent):
        before = int(counter.read_text())
        counter.write_text(str(before + 1))
"""


def test_many_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    """The lock file is deleted and created again all the time."""
    (tmp_path / "counter").write_text("0")
    code = COUNT.format(patience_s=PATIENCE_S, path=str(tmp_path))
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "80"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_folder_that_cannot_be_written_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write .*choose another folder with --out"),
        locked_folder(tmp_path / "file" / "out"),
    ):
        raise AssertionError


@pytest.mark.usefixtures("impatient")
def test_unreadable_owner_is_another_process(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        assert f"{os.getpid()}\t" in (tmp_path / ".toolkit.lock").read_text()
        (tmp_path / ".toolkit.lock").write_text("\0 not ours\n")
        with (
            pytest.warns(ToolkitWarning),
            pytest.raises(OutputError, match="in use by another process"),
            locked_folder(tmp_path),
        ):
            raise AssertionError


def test_lock_names_no_machine(tmp_path: Path) -> None:
    """After a kill it stays in the folder, which may be sent to somebody."""
    with locked_folder(tmp_path):
        assert os.uname().nodename not in (tmp_path / ".toolkit.lock").read_text()
