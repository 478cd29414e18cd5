"""Names of this machine in texts: folders, user and host become placeholders, and nothing else."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import toolkit
from toolkit.errors import Crashed
from toolkit.places import blank_places, without_places

PACKAGE = Path(toolkit.__file__).parent


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose user is `alice` and whose host is `big-server`."""
    for name in ("home/alice/work", "scratch", "home/alice/code"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "alice"))
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "home" / "alice" / "code")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "home" / "alice" / "venv"))
    monkeypatch.setattr(platform, "node", lambda: "big-server")
    monkeypatch.chdir(tmp_path / "home" / "alice" / "work")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "{}/home/alice/notes/net.py", line 3', 'File "~/notes/net.py", line 3'),
        ("cannot read {}/home/alice: no", "cannot read ~: no"),
        ("{}/home/alice/work/net.py", "./net.py"),
        (
            "{}/home/alice/venv/lib/site-packages/torch/a.py",
            "<python>/lib/site-packages/torch/a.py",
        ),
        ("{}/scratch/toolkit-x/log", "<tmp>/toolkit-x/log"),
        ("{}/home/alice/code/net.py:3", "<path>/net.py:3"),
        ("g++ -I{}/home/alice/venv/include x.cpp", "g++ -I<python>/include x.cpp"),
        ("file://{}/home/alice/net.py", "file://~/net.py"),
        ("/data/alice/net.py", "/data/<user>/net.py"),
        ("../../data/alice", "../../data/<user>"),
        ("alice@big-server: gone", "<user>@<host>: gone"),
        ("/tmp/x", "<tmp>/x"),
    ],
)
def test_name_is_replaced(machine: Path, text: str, expected: str) -> None:
    assert without_places(text.format(machine)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "malice, alice and alice.onnx",
        "my-big-server-2",
        "/usr/include/stdio.h",
        "shape [2, 3] / 4",
        "https://pytorch.org/docs/stable",
        "models/mnist-cnn",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_places(text) == text


def test_folder_with_a_longer_name_stays_whole(machine: Path) -> None:
    assert without_places(f"{machine}/home/alice/coder/net.py").endswith("~/coder/net.py")


def test_the_toolkit_itself_has_a_name_of_its_own() -> None:
    assert without_places(f"{PACKAGE}/files.py") == "<toolkit>/files.py"


def test_twice_is_as_once(machine: Path) -> None:
    once = without_places(f"{machine}/home/alice/x alice@big-server {PACKAGE}/files.py")
    assert without_places(once) == once


def test_link_to_a_folder_is_replaced_too(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "link").symlink_to(machine / "home" / "alice")
    monkeypatch.setenv("HOME", str(machine / "link"))
    assert without_places(f"{machine}/link/x {machine}/home/alice/x") == "~/x ~/x"


def test_bytes_keep_their_length_and_name_nothing(machine: Path) -> None:
    library = f"\0{machine}/home/alice/venv/include/utils.h\0{machine}/cache/x\0/tmp/x\0".encode()
    blank = blank_places(library, also=[machine / "cache"])
    assert len(blank) == len(library)
    assert str(machine).encode() not in blank
    assert blank.split(b"\0")[1].endswith(b"//include/utils.h")
    assert blank.endswith(b"\0/tmp/x\0")  # every machine has this one


def test_failure_of_a_row_names_no_folder(machine: Path) -> None:
    failure = Crashed(
        f"no {machine}/home/alice/x", stderr_tail=f'File "{machine}/home/alice/code/net.py"'
    )
    assert (failure.reason, failure.stderr_tail) == ("no ~/x", 'File "<path>/net.py"')
    assert str(failure) == "crashed: no ~/x"
    failure.stderr_tail = f"{machine}/home/alice/y"
    assert failure.stderr_tail == "~/y"


def test_machine_without_names_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise OSError("no user name")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(platform, "node", lambda: "")
    assert without_places("alice@big-server") == "alice@big-server"


def test_deleted_current_folder_is_no_obstacle(tmp_path: Path) -> None:
    code = "import os; os.rmdir(os.getcwd()); from toolkit.places import without_places as w; "
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code} print(w('text'))"],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("text\n", "")
