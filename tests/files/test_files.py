"""Writes are complete or have no effect, on real file systems that are really full."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile import IRREGULAR, large_file, move_out, put_irregular

from toolkit.errors import OutputError
from toolkit.files import (
    check_writable,
    copy_files,
    files_in,
    make_folder,
    open_regular,
    others_can_change,
    publish,
    read_json,
    read_regular,
    read_tail,
    refuse_large,
    scratch_folder,
    sha256_of,
    size_of,
    write_atomically,
    write_json,
)

TOO_MUCH = b"x" * (1 << 20)


def only_file(folder: Path) -> Path:
    """Return the only file in `folder`: no temporary file is left next to it."""
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount to make a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Limit files of this process to `size_bytes`, so that writing fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("content", [b"", b"\0\xff\n", "text, ümläut\n"])
def test_write_creates_only_the_file(tmp_path: Path, content: bytes | str) -> None:
    folder = tmp_path / "new" / "folder"
    write_atomically(folder / "file", content)
    assert only_file(folder) == folder / "file"
    expected = content.encode() if isinstance(content, str) else content
    assert (folder / "file").read_bytes() == expected


def test_write_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "a long first version")
    write_atomically(path, "second")
    assert only_file(tmp_path).read_text() == "second"


def test_open_reader_keeps_the_old_content(tmp_path: Path) -> None:
    """The new file takes the name; the old bytes are not overwritten."""
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old content"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "content")
        (tmp_path / "plain").write_text("content")
        assert os.umask(umask) == umask  # unchanged
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")}
    assert modes == {0o666 & ~umask}


def test_full_disk_keeps_the_old_file_and_leaves_no_temporary_file(small_disk: Path) -> None:
    path = small_disk / "results.json"
    write_atomically(path, "old")
    with pytest.raises(
        OutputError, match=r"results\.json: No space left on device; free disk space"
    ):
        write_atomically(path, TOO_MUCH)
    assert only_file(small_disk).read_text() == "old"


def test_write_that_fails_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with largest_file(10_000), pytest.raises(OutputError, match="File too large"):
        write_atomically(path, TOO_MUCH)
    assert only_file(tmp_path).read_text() == "old"


def test_failed_first_write_leaves_no_file(tmp_path: Path) -> None:
    with largest_file(10_000), pytest.raises(OutputError):
        write_atomically(tmp_path / "results.json", TOO_MUCH)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_in_the_middle_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert only_file(tmp_path).read_text() == "old"


@pytest.mark.parametrize("write", [write_atomically, publish])
def test_bytes_are_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    """If a rename reaches the disk before the bytes, a power cut leaves an empty file."""
    steps: list[object] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        steps.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "part").write_text("content")
    write(
        *((tmp_path / "part", tmp_path / "file") if write is publish else (tmp_path / "file", ""))
    )
    assert steps == [(tmp_path / "file").stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_file_at_the_folder_path_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    for write in (write_atomically, write_json):
        with pytest.raises(OutputError, match=r"cannot write .*choose another folder with --out"):
            write(tmp_path / "folder" / "file", "content")
    with pytest.raises(OutputError):
        make_folder(tmp_path / "folder")
    with pytest.raises(OutputError), scratch_folder(tmp_path / "folder"):
        pass
    assert only_file(tmp_path).read_text() == "a file"


def test_unwritable_path_is_detected_in_advance(tmp_path: Path) -> None:
    """A writable path leaves no trace except its folder."""
    check_writable(tmp_path / "new" / "file")
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
    (tmp_path / "old").write_text("old")
    check_writable(tmp_path / "old")
    with pytest.raises(OutputError, match=r"cannot write .*/new: Is a directory"):
        check_writable(tmp_path / "new")
    with pytest.raises(OutputError, match=r"cannot write .*/old"):
        check_writable(tmp_path / "old" / "file")


def test_folder_at_the_file_path_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_atomically(tmp_path / "file", "content")
    assert only_file(tmp_path).is_dir()
    (tmp_path / "part").write_text("content")
    with pytest.raises(OutputError, match=r"cannot write .*file: Is a directory"):
        publish(tmp_path / "part", tmp_path / "file")


def test_sha256_of_a_file_larger_than_one_chunk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(TOO_MUCH + b"y")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(TOO_MUCH + b"y").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path, value: float) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"accuracy": 0.5})
    old = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rows": [{"accuracy": value}]})
    assert only_file(tmp_path).read_bytes() == old


def test_scratch_folder_is_on_the_same_file_system_and_is_deleted(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("content")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_scratch_folder_is_deleted_after_an_exception(
    tmp_path: Path, error: type[BaseException]
) -> None:
    """The exception is the caller's own: its OSError is not taken for a failed write."""

    def half_written() -> None:
        with scratch_folder(tmp_path) as folder:
            (folder / "half").write_text("content")
            raise error("in the middle")

    with pytest.raises(error, match=r"^in the middle$"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def make_tree(folder: Path, **content: bytes) -> Path:
    (folder / "sub").mkdir(parents=True)
    for name, data in content.items():
        (folder / name.replace("__", "/")).write_bytes(data)
    return folder


def test_folder_checksum_covers_names_and_bytes(tmp_path: Path) -> None:
    one = make_tree(tmp_path / "one", a=b"xy", sub__b=b"z")
    assert size_of(one) == 3
    same = make_tree(tmp_path / "same", sub__b=b"z", a=b"xy")
    assert sha256_of(one) == sha256_of(same)
    others = (
        make_tree(tmp_path / "bytes", a=b"xy", sub__b=b"w"),
        make_tree(tmp_path / "name", a=b"xy", sub__c=b"z"),
        make_tree(tmp_path / "place", a=b"xy", b=b"z"),
        make_tree(tmp_path / "border", a=b"x", sub__b=b"yz"),
        make_tree(tmp_path / "less", a=b"xy"),
    )
    assert len({sha256_of(one), *map(sha256_of, others)}) == 6


def test_folder_replaces_the_previous_folder(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        with scratch_folder(tmp_path) as scratch:
            folder = make_tree(scratch / "out", a=data, sub__b=data)
            (folder / "a").chmod(0o600)
            publish(folder, tmp_path / "out")
    assert only_file(tmp_path) == tmp_path / "out"
    assert (tmp_path / "out" / "sub" / "b").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "out" / "a").stat().st_mode) & 0o400
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "out" / "a").stat().st_mode) == 0o666 & ~umask


def test_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(OutputError, match=r"cannot write .*out"),
        scratch_folder(tmp_path) as scratch,
    ):
        publish(make_tree(scratch / "out", a=b"new"), tmp_path / "out")
    assert only_file(tmp_path).read_text() == "a file"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    put_irregular(tmp_path / "file", kind)
    reads: list[Callable[[Path], object]] = [open_regular, read_regular, read_json, read_tail]
    if kind != "a folder":
        reads += [sha256_of, size_of, lambda path: files_in(path.parent)]
    for read in reads:
        with pytest.raises(OSError, match=IRREGULAR[kind] + "|outside"):
            read(tmp_path / "file")


def test_a_socket_is_not_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "file"))
        with pytest.raises(OSError, match="it is a socket, expected a regular file"):
            read_regular(tmp_path / "file")


@pytest.mark.timeout(600)
def test_a_file_that_becomes_a_fifo_after_the_first_look_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, look = tmp_path / "file", Path.stat
    path.write_bytes(b"content")

    def look_and_replace(self: Path) -> os.stat_result:
        found = look(self)
        put_irregular(path, "a FIFO")
        return found

    monkeypatch.setattr(Path, "stat", look_and_replace)
    with pytest.raises(OSError, match="it is a FIFO"):
        read_regular(path)


def test_links_are_followed_but_may_not_leave_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "link").symlink_to("file")
    (tmp_path / "named").symlink_to(folder)
    for within in (None, folder, tmp_path / "named"):
        assert read_regular(folder / "link", within=within) == b"content"
        assert read_regular(tmp_path / "named" / "file", within=within) == b"content"
    move_out(folder / "file", tmp_path / "elsewhere")
    assert read_regular(folder / "link") == b"content"
    for name in ("file", "link"):
        for read in (read_regular, sha256_of, size_of, refuse_large):
            with pytest.raises(OSError, match=r"it is a link to .*elsewhere/file, outside"):
                read(folder / name, within=folder)


def test_a_circle_of_links_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("file")
    for within in (None, tmp_path):
        with pytest.raises(OSError, match="Too many levels"):
            read_regular(tmp_path / "file", within=within)


@pytest.mark.parametrize("odd", ["a FIFO", "/dev/zero", "link out", "folder link out"])
def test_a_folder_with_anything_but_its_own_files_has_no_checksum(tmp_path: Path, odd: str) -> None:
    folder = make_tree(tmp_path / "one", a=b"xy", sub__b=b"z")
    (folder / "link").symlink_to("sub/b")
    assert files_in(folder) == [folder / "a", folder / "link", folder / "sub" / "b"]
    assert size_of(folder) == 4
    path = folder / "sub" / "odd"
    if odd == "link out":
        path.write_bytes(b"content")
        move_out(path, tmp_path / "elsewhere")
    elif odd == "folder link out":
        path.symlink_to(tmp_path)
    else:
        put_irregular(path, odd)
    for read in (sha256_of, size_of):
        with pytest.raises(OSError, match="sub/odd in it: it is a"):
            read(folder)


def test_a_name_that_is_not_text_is_in_the_checksum_of_a_folder(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "one", a=b"xy")
    before = sha256_of(folder)
    (folder / os.fsdecode(b"\xff")).write_bytes(b"")
    assert sha256_of(folder) != before


def test_a_file_is_read_up_to_the_size_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'"12345"')
    assert read_regular(tmp_path / "file", most_bytes=7) == b'"12345"'
    assert read_json(tmp_path / "file", most_bytes=7) == "12345"
    for read in (read_regular, read_json):
        with pytest.raises(OSError, match="it has 7 bytes, expected at most 6"):
            read(tmp_path / "file", most_bytes=6)


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large_file(tmp_path / "file", 1 << 42)
    for read in (read_regular, refuse_large):
        with pytest.raises(OSError, match="it has 4,398,046,511,104 bytes, expected at most"):
            read(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="a file without a size")
def test_a_file_longer_than_its_size_is_refused() -> None:
    for read in (read_regular, sha256_of):
        with pytest.raises(OSError, match="more than the 0 bytes that the system reports"):
            read(Path("/proc/self/maps"))


def test_deep_json_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "file")


def test_the_tail_is_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"0123456789\xff")
    assert read_tail(tmp_path / "log", most_bytes=3) == "89\ufffd"
    assert read_tail(tmp_path / "log") == "0123456789\ufffd"


def test_what_others_can_change_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "file").touch(mode=0o644)
    assert not others_can_change(folder / "file")
    assert not others_can_change(folder)
    folder.chmod(0o777)  # the file can be replaced
    assert others_can_change(folder / "file")
    folder.chmod(0o1777)  # only by its owner
    assert not others_can_change(folder / "file")
    (folder / "file").chmod(0o664)
    assert others_can_change(folder / "file")
    assert others_can_change(folder)


def test_copy_has_the_same_checksum(tmp_path: Path) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / "file").write_bytes(b"1")
    (tmp_path / "a" / "other").write_bytes(b"22")
    copy_files(tmp_path / "a", tmp_path / "b")
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    copy_files(tmp_path / "a" / "other", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"22"
