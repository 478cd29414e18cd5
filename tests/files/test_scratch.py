"""Folders of killed processes are found and deleted; those of living processes, other users and
other programs are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import PATIENCE_S

from toolkit.errors import OutputError, ToolkitWarning
from toolkit.files.scratch import (
    ScratchFolder,
    remove_tree,
    say_swept,
    sweep,
    sweep_beside,
    temporary_folder,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@contextmanager
def owner(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in a process, and wait until it is done; the process lives on."""
    head = (
        "from pathlib import Path\nfrom toolkit.files import scratch_folder, write_atomically\n"
        "from toolkit.files.scratch import ScratchFolder, note_incomplete\n"
    )
    tail = "\nprint('done', flush=True)\ninput()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code + tail],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_folder_of_a_killed_process_is_swept(place: Path) -> None:
    code = "(ScratchFolder('worker').path / 'inside').write_text('x')"
    with owner(code) as process:
        (folder,) = place.iterdir()
        assert folder.name.startswith("toolkit-worker-")
        assert sweep() == []  # it has an owner
        assert (folder / "inside").exists()
        process.kill()
        process.wait()
        assert sweep() == [folder]
    assert list(place.iterdir()) == []


def test_folder_is_gone_when_its_process_ends(place: Path) -> None:
    with owner("ScratchFolder('worker')") as process:
        assert len(list(place.iterdir())) == 1
        process.communicate("\n", timeout=PATIENCE_S)
        assert process.returncode == 0
        assert list(place.iterdir()) == []


def test_process_that_is_forked_leaves_the_folder_to_its_parent(place: Path) -> None:
    fork = """
import os, sys
folder = ScratchFolder("worker")
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
"""
    with owner(fork):
        assert len(list(place.iterdir())) == 1
        assert sweep() == []


def test_incomplete_files_of_a_killed_process_are_swept_wherever_they_are(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = f"""
block = scratch_folder(Path({str(out)!r}))
(block.__enter__() / "half").write_text("half")
write_atomically(Path({str(out / "whole")!r}), "whole")
half = Path({str(out / ".results.json.abcd1234.part")!r})
half.write_text("half")
note_incomplete(half)
note_incomplete(Path({str(out / "whole")!r}))
"""
    with owner(code) as process:
        assert sweep() == []
        assert len(list(out.iterdir())) == 3
        process.kill()
        process.wait()
        found = sweep()
    assert {path.name[:6] for path in found} == {".part-", ".resul"}
    assert [path.name for path in out.iterdir()] == ["whole"]  # complete, although it was noted
    assert list(place.iterdir()) == []


def test_lock_of_a_killed_process_is_swept_unless_another_holds_it(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hold = f"""
from toolkit.files.locks import locked_folder
held = locked_folder(Path({str(out)!r}))
held.__enter__()
"""
    users = f"""
own = Path({str(out / ".users.lock")!r})
own.write_text("x" * 2000)
note_incomplete(own)
note_incomplete(Path({str(out / "yarn.lock")!r}))
"""
    with owner(hold + users) as process:
        (out / "yarn.lock").write_text("not a lock of the toolkit")
        process.kill()
        process.wait()
        with owner(hold) as second:
            assert sweep() == []
            assert (out / ".toolkit.lock").exists()
            second.kill()
            second.wait()
        assert sweep() == [out / ".toolkit.lock"]
    assert {path.name for path in out.iterdir()} == {".users.lock", "yarn.lock"}
    assert list(place.iterdir()) == []


def test_folders_of_other_programs_are_not_swept(place: Path) -> None:
    for name in ("toolkit-worker-abcd1234", "other-abcd1234.scratch", "toolkit.scratch.txt"):
        (place / name).mkdir()
    (place / "toolkit-file-abcd1234.scratch").write_text("a file")
    (place / "real").mkdir()
    (place / "toolkit-link-abcd1234.scratch").symlink_to(place / "real")
    before = sorted(place.iterdir())
    assert sweep() == []
    assert sorted(place.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_folders_of_other_users_are_not_swept(place: Path) -> None:
    folder = place / "toolkit-worker-abcd1234.scratch"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    assert sweep() == []
    os.chown(folder, 0, 0)
    assert sweep() == [folder]


def test_only_incomplete_files_beside_an_output_are_swept(tmp_path: Path) -> None:
    ours = {".part-abcd1234", ".results.json.abcd1234.part", ".a\nb.abcd_234.part"}
    others = {"results.json", ".part-", ".part-of-a-plan", "x.abcd1234.part", ".x.abcd.part"}
    for name in ours | others:
        (tmp_path / name).write_text("")
    assert {path.name for path in sweep_beside(tmp_path, "results.json")} == {
        ".results.json.abcd1234.part"
    }
    assert {path.name for path in sweep_beside(tmp_path)} == ours - {".results.json.abcd1234.part"}
    assert {path.name for path in tmp_path.iterdir()} == others


def test_link_among_incomplete_files_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".part-abcd1234").symlink_to(tmp_path / "mine")
    assert sweep_beside(out) == [out / ".part-abcd1234"]
    assert (tmp_path / "mine" / "file").read_text() == "mine"


def test_sweeping_is_said_in_one_line() -> None:
    say_swept([])
    with pytest.warns(ToolkitWarning) as caught:
        say_swept([Path(f"/tmp/{number}") for number in range(5)])
    (only,) = caught
    assert str(only.message) == (
        "deleted what a killed command had left behind: /tmp/0, /tmp/1, /tmp/2 and 2 more"
    )


def test_missing_temporary_folder_is_an_error_that_says_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "missing"))
    with pytest.raises(OutputError, match=r"cannot write to the temporary folder.*set TMPDIR"):
        ScratchFolder("worker")


def test_folder_is_deleted_after_an_error(place: Path) -> None:
    with pytest.raises(IsADirectoryError), temporary_folder("export") as folder:
        folder.write_text("x")
    assert list(place.iterdir()) == []


def test_folders_nested_deeper_than_the_stack_and_the_longest_path_are_removed(
    tmp_path: Path,
) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    script = "import os\nfor _ in range(3000):\n    os.mkdir('abc')\n    os.chdir('abc')\n"
    subprocess.run([sys.executable, "-c", script], cwd=deep, check=True)
    (deep / "link").symlink_to(tmp_path)
    (deep / "closed").mkdir(mode=0)
    remove_tree(deep)
    assert list(tmp_path.iterdir()) == []


def test_what_links_lead_to_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
