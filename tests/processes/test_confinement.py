"""Confined processes: each thing that is refused, what is still allowed, and when they end.

Each attempt is made twice: unconfined, where it must succeed, so that the test shows something.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import wait_until

from toolkit.processes import landlock, seccomp
from toolkit.processes.confinement import SWITCH, Confinement, Needs, offered, own_folders
from toolkit.processes.launch import describe

pytestmark = [
    pytest.mark.usefixtures("no_child_is_left"),
    pytest.mark.skipif(
        not offered().startswith("Landlock") or "only" in offered(),
        reason=f"this system cannot confine processes: {offered()}",
    ),
]

# More than the limits of any machine that runs this test.
HUGE_BYTES = (1 << 40) + 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

PRELUDE = """
import ctypes, json, mmap, os, resource, socket, subprocess, sys, threading
from pathlib import Path
outside, target, libc = Path({outside!r}), {target}, ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
"""

ATTEMPTS = {
    "write a file outside": "(outside / 'new').write_text('x')",
    "append to a file outside": "(outside / 'file').open('a').write('x')",
    "empty a file outside": "os.truncate(outside / 'file', 0)",
    "delete a file outside": "(outside / 'file').unlink()",
    "rename a file outside": "(outside / 'file').rename(outside / 'renamed')",
    "move a file into the scratch folder": "(outside / 'file').rename('mine')",
    "link a file outside": "os.link(outside / 'file', 'mine')",
    "make a folder outside": "(outside / 'folder').mkdir()",
    "change permissions outside": "(outside / 'file').chmod(0o777)",
    "change times outside": "os.utime(outside / 'file', (0, 0))",
    "change attributes outside": "os.setxattr(outside / 'file', 'user.x', b'x')",
    "read a key of the user": "(outside / '.ssh' / 'id').read_text()",
    "list a folder of the user": "os.listdir(outside / '.ssh')",
    "watch a folder of the user": "call('inotify_init')",
    "make a symbolic link": "os.symlink('/etc', 'link')",
    "make a named pipe": "os.mkfifo('pipe')",
    "open an IPv4 socket": "socket.socket(socket.AF_INET)",
    "open an IPv6 socket": "socket.socket(socket.AF_INET6)",
    "open a Unix socket": "socket.socket(socket.AF_UNIX)",
    "open a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "open a pair that reaches others": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "start a program": "subprocess.run(['true'])",
    "become a program": "os.execvp('true', ['true'])",
    "fork": "fork()",
    "send a signal": "os.kill(target, 0)",
    "trace a process": "call('ptrace', 0x4206, target, None, None)",
    "read the memory of a process": "open(f'/proc/{target}/mem')",
    "read the environment of a process": "open(f'/proc/{target}/environ').read()",
    "limit another process": "resource.prlimit(target, resource.RLIMIT_CORE, (0, 0))",
    "share memory with processes": "call('shmget', 0, 4096, 0o1600)",
    "reserve more memory than there is": (
        f"mmap.mmap(-1, {HUGE_BYTES}, flags=mmap.MAP_PRIVATE | 0x4000 | mmap.MAP_ANONYMOUS)"
    ),
    "share more memory than there is": (
        f"mmap.mmap(-1, {HUGE_BYTES}, flags=mmap.MAP_SHARED | 0x4000 | mmap.MAP_ANONYMOUS)"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a confined process is tried: its scratch folder, and what lies outside of it."""

    scratch: Path
    outside: Path
    target: int

    def run(self, code: str, needs: Needs | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python code after the prelude."""
        self.scratch.mkdir(exist_ok=True)
        for each in ("lifeline", "policy.json"):
            (self.scratch / each).unlink(missing_ok=True)
        prelude = PRELUDE.format(outside=str(self.outside), target=self.target)
        with Confinement(self.scratch, needs or Needs()) as confined:
            return subprocess.run(
                [*confined.command, "-c", prelude + code],
                cwd=self.scratch,
                env={**os.environ, **own_folders(self.scratch)},
                capture_output=True,
                text=True,
                check=False,
            )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    outside = tmp_path / "outside"
    (outside / ".ssh").mkdir(parents=True)
    (outside / ".ssh" / "id").write_text("secret")
    (outside / "file").write_text("theirs")
    with subprocess.Popen(["sleep", "3600"]) as target:
        yield Bench(scratch=tmp_path / "scratch", outside=outside, target=target.pid)
        target.kill()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_confined_process_cannot(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    confined = bench.run(ATTEMPTS[name])
    assert confined.returncode == 1, confined
    refusals = ("PermissionError", "Errno 12", "OSError: [Errno 18]")  # or out of memory, or EXDEV
    assert any(each in confined.stderr for each in refusals), confined.stderr
    assert (bench.outside / "file").read_text() == "theirs"
    monkeypatch.setenv(SWITCH, "1")
    free = bench.run(ATTEMPTS[name])
    assert free.returncode == 0, free.stderr


def test_confined_process_reads_and_writes_what_it_needs(bench: Bench, tmp_path: Path) -> None:
    artifact, output = tmp_path / "model.onnx", tmp_path / "output"
    artifact.write_text("weights")
    output.mkdir()
    done = bench.run(
        f"Path({str(output / 'converted')!r}).write_text(Path({str(artifact)!r}).read_text())\n"
        "Path('folder').mkdir(); Path('folder/a').write_text('mine'); os.rename('folder/a', 'b')\n"
        "import tempfile; tempfile.NamedTemporaryFile('w').write('x')\n"
        "import sqlite3, numpy\n"
        "socket.socketpair()\n"
        "thread = threading.Thread(target=print, args=('from a thread',))\n"
        "thread.start(); thread.join()\n"
        "print(os.environ['TOOLKIT_CONFINEMENT'])\n",
        Needs(reads=(artifact,), writes=(output,)),
    )
    assert done.stdout.splitlines() == ["from a thread", offered()], done.stderr
    assert (output / "converted").read_text() == "weights"
    assert (bench.scratch / "b").read_text() == "mine"


def test_artifact_cannot_be_changed(bench: Bench, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_text("weights")
    done = bench.run(f"open({str(artifact)!r}, 'r+')", Needs(reads=(artifact,)))
    assert "PermissionError" in done.stderr


def test_programs_of_a_confined_process_are_confined_too(bench: Bench) -> None:
    done = bench.run(
        "print(subprocess.run(['echo', 'started'], capture_output=True, text=True).stdout)\n"
        "print(subprocess.run(['cat', outside / '.ssh' / 'id']).returncode)\n",
        Needs(programs=True),
    )
    assert done.stdout.split() == ["started", "1"], done.stderr
    assert "Permission denied" in done.stderr


def test_what_a_confined_process_wrote_cannot_be_started(bench: Bench) -> None:
    """If it may start programs, a change of permissions succeeds without an effect."""
    done = bench.run(
        "program = Path('program').resolve()\n"
        "program.write_text('#!/bin/sh'); program.chmod(0o755)\n"
        "print(oct(program.stat().st_mode), flush=True)\n"
        "subprocess.run([program])\n",
        Needs(programs=True),
    )
    assert done.stdout.strip() == "0o100644"
    assert "PermissionError" in done.stderr


def test_memory_is_bounded(bench: Bench) -> None:
    """1 GiB more than a bound that is larger than what Python and its libraries take."""
    for bound, code in ((2 << 30, 1), (None, 0)):
        done = bench.run("bytearray(3 << 30)", Needs(memory_bytes=bound))
        assert done.returncode == code, done.stderr
        assert ("MemoryError" in done.stderr) == (code == 1)


def test_processes_and_core_files_are_bounded(bench: Bench) -> None:
    names = [f"RLIMIT_{each}" for each in ("NPROC", "CORE", "FSIZE", "DATA", "AS")]
    code = f"print(json.dumps([resource.getrlimit(getattr(resource, x)) for x in {names}]))"
    limits = json.loads(bench.run(code).stdout)
    assert all(soft == hard != resource.RLIM_INFINITY for soft, hard in limits)


def test_kernel_ends_a_confined_process_first_if_memory_runs_out(bench: Bench) -> None:
    done = bench.run("print(Path('/proc/self/oom_score_adj').read_text())")
    assert done.stdout.strip() == "1000"


def test_confined_process_has_no_privileges(bench: Bench) -> None:
    done = bench.run("print(Path('/proc/self/status').read_text())")
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert facts["NoNewPrivs"].strip() == "1"
    files_only = 0b110
    assert int(facts["CapEff"], 16) & ~files_only == 0
    assert int(facts["CapPrm"], 16) & ~files_only == 0


def test_home_folder_is_not_readable_even_if_modules_are_in_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `cd; python -m toolkit verify DIR --model nets:make`."""
    home = bench.outside
    (home / "nets.py").write_text("import layers\nmade = layers.made\n")
    (home / "layers").mkdir()
    (home / "layers" / "__init__.py").write_text("made = 'made'\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    lookup = f"sys.path.insert(0, {str(home)!r})\n"
    done = bench.run(f"{lookup}import nets; print(nets.made)", Needs(model="nets:make"))
    assert done.stdout.strip() == "made", done.stderr
    for needs in (Needs(), Needs(model="nets:make")):
        done = bench.run(f"{lookup}open(outside / '.ssh' / 'id')", needs)
        assert "PermissionError" in done.stderr


DRIVER = """
import os, subprocess, sys, threading, time
from pathlib import Path
from toolkit.processes.confinement import Confinement, Needs
confined = Confinement(Path(sys.argv[1]), Needs(programs=True))
started = []
def start():
    process = subprocess.Popen(
        [*confined.command, "-c", sys.argv[2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    started.append(process)
    print(process.pid, process.stdout.readline().decode().strip(), flush=True)
thread = threading.Thread(target=start)  # and the thread ends
thread.start(); thread.join()
if sys.argv[3] == "close":
    sys.stdin.readline()
    assert started[0].poll() is None
    confined.close()
time.sleep(3600)
"""
BUSY = """
import ctypes, subprocess
print(subprocess.Popen(["sleep", "3600"]).pid, flush=True)
ctypes.PyDLL(None).sleep(3600)  # a native call that holds the interpreter's lock
"""


@pytest.mark.parametrize("end", ["kill", "close"])
def test_process_and_its_programs_end_with_the_driver(tmp_path: Path, end: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), BUSY, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdin is not None
    pids = [int(each) for each in driver.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids))
    if end == "kill":
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    else:
        driver.stdin.write("\n")
        driver.stdin.flush()
    wait_until(lambda: not any(map(running, pids)), "the child and its program are gone")
    driver.kill()
    driver.communicate()


def running(pid: int) -> bool:
    """A zombie has ended, and waits for its parent."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


REFUSE_A_SYSTEM_CALL = """
import os, sys
from toolkit.processes import landlock, seccomp
seccomp._NUMBERS = {"refused": (int(sys.argv[1]), int(sys.argv[2]))}
landlock.no_new_privileges()
seccomp.restrict(programs=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((444, 444), "seccomp only: Landlock is refused (Operation not permitted)"),
        ((317, 277), "Landlock {} only: seccomp is refused (Operation not permitted)"),
    ],
)
def test_missing_part_is_named_and_the_other_applies(
    tmp_path: Path, numbers: tuple[int, int], text: str
) -> None:
    """As in containers whose own filter does not know Landlock."""
    code = "import os; print(os.environ['TOOLKIT_CONFINEMENT'])"
    with Confinement(tmp_path, Needs()) as confined:
        wrapper = [sys.executable, "-c", REFUSE_A_SYSTEM_CALL, *map(str, numbers)]
        done = subprocess.run(
            [*wrapper, *confined.command, "-c", code], capture_output=True, text=True, check=False
        )
    assert done.stdout.strip() == text.format(landlock.version()), done.stderr


def test_system_without_both_is_not_confined() -> None:
    found = describe(0, landlock.why_missing(OSError(38, "ENOSYS")), "this system has no seccomp")
    assert found == (
        "not confined: this kernel has no Landlock (Linux 5.13 and later have it); this system has "
        "no seccomp"
    )


def decision(machine: str, architecture: int, number: int, *arguments: int, programs: bool) -> int:
    """Run the filter as the kernel does, and return what it decides."""
    data = {0: number, 4: architecture}
    for place, value in enumerate(arguments):
        data[16 + 8 * place] = value & 0xFFFFFFFF
    value, at = 0, 0
    rules = seccomp.program(programs=programs, machine=machine)
    while True:
        code, yes, no, operand = rules[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = data.get(operand, 0)
        elif code == 0x54:
            value &= operand
        else:
            holds = {0x15: value == operand, 0x25: value > operand, 0x45: bool(value & operand)}
            at += yes if holds[code] else no


ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
IGNORE = 0x00050000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003
A_THREAD, A_PROCESS, NAMESPACE = 0x3D0F00, 0x01200011, 0x10000000


@pytest.mark.parametrize(
    ("call", "x86_64", "aarch64", "arguments", "without_programs", "with_programs"),
    [
        ("read", 0, 63, (), ALLOW, ALLOW),
        ("mmap", 9, 222, (), ALLOW, ALLOW),
        ("socket", 41, 198, (1,), REFUSE, REFUSE),
        ("socketpair of streams", 53, 199, (1, 0x80001), ALLOW, ALLOW),
        ("socketpair of datagrams", 53, 199, (1, 2), REFUSE, REFUSE),
        ("execve", 59, 221, (), REFUSE, ALLOW),
        ("fchmodat", 268, 53, (), REFUSE, IGNORE),
        ("clone of a thread", 56, 220, (A_THREAD,), ALLOW, ALLOW),
        ("clone of a process", 56, 220, (A_PROCESS,), REFUSE, ALLOW),
        ("clone into a namespace", 56, 220, (A_PROCESS | NAMESPACE,), REFUSE, REFUSE),
        ("clone3", 435, 435, (), UNKNOWN, UNKNOWN),
        ("own limits", 302, 261, (0,), ALLOW, ALLOW),
        ("others' limits", 302, 261, (77,), REFUSE, REFUSE),
        ("terminal input", 16, 29, (0, 0x5412), REFUSE, REFUSE),
        ("terminal size", 16, 29, (0, 0x5413), ALLOW, ALLOW),
        ("ptrace", 101, 117, (), REFUSE, REFUSE),
        ("io_uring_setup", 425, 425, (), REFUSE, REFUSE),
        ("call of a newer kernel", 500, 500, (), UNKNOWN, UNKNOWN),
    ],
)
def test_filter_decides_on_both_processors(
    call: str,
    x86_64: int,
    aarch64: int,
    arguments: tuple[int, ...],
    without_programs: int,
    with_programs: int,
) -> None:
    for machine, architecture, number in (("x86_64", X86, x86_64), ("aarch64", ARM, aarch64)):
        for programs, wanted in ((False, without_programs), (True, with_programs)):
            found = decision(machine, architecture, number, *arguments, programs=programs)
            assert found == wanted, (call, machine, programs)


def test_other_interfaces_to_the_kernel_are_closed() -> None:
    """32-bit calls end the process; the calls of x32 are numbered from 0x40000000."""
    assert decision("x86_64", I386, 102, programs=True) == KILL
    assert decision("x86_64", X86, 0x40000000 + 41, programs=True) == UNKNOWN


def test_process_whose_command_has_ended_says_nothing(tmp_path: Path) -> None:
    """Its folder is gone: the command was interrupted while it started this process."""
    start = "from toolkit.processes.launch import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, tmp_path / "gone" / "policy.json", "-c", "print('ran')"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
