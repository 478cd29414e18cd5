"""Start of a confined process: it confines itself, and then runs the code that it was started for.

In: a policy (JSON, see `toolkit.processes.confinement`), and `-c CODE` or `-m MODULE`. Out: that
code runs, with the confinement in the environment variable `CONFINEMENT`.

The kernel confines a thread and what it starts later, so this must run before any library starts a
thread. That is also why it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from toolkit.processes import landlock, seccomp

CONFINEMENT = "TOOLKIT_CONFINEMENT"
"""The environment variable of a confined process that says how it is confined."""

_PR_SET_CAPABILITIES_VERSION = 0x20080522
_KEPT_CAPABILITIES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: root reads its users' files
_CAPSET = {"x86_64": 126, "aarch64": 91}
_KILLED_FIRST = "1000"


def main() -> None:
    """Confine this process by the policy in the file `argv[1]`, then run the rest of `argv`."""
    path, kind, code, *arguments = sys.argv[1:]
    if kind == "-u":  # execnet's option for Python itself
        kind, code, *arguments = code, *arguments
    sys.argv[:] = [kind, *arguments]
    try:
        policy = json.loads(Path(path).read_text())
        tie(policy["lifeline"], parent=policy["parent"])
    except FileNotFoundError:  # the command that started this process has ended and cleaned up
        sys.exit(1)
    os.environ[CONFINEMENT] = policy["off"] or confine(policy)
    if kind == "-m":
        import runpy

        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(code, vars(sys.modules["__main__"]))


def tie(lifeline: str, *, parent: int) -> None:
    """End this process, and those that it starts, as soon as its `parent` has ended: then no other
    process has the named pipe `lifeline` open.

    On Linux the kernel does that, also during a native call. `PR_SET_PDEATHSIG` would end it when
    the thread that started it ends. Elsewhere, a thread waits, and ends it after the native call.
    """
    descriptor = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.suppress(PermissionError):  # it already leads a group of processes
        os.setsid()
    if not hasattr(fcntl, "F_SETSIG"):
        os.set_blocking(descriptor, True)
        threading.Thread(target=_wait, args=(descriptor,), daemon=True).start()
        return
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    waiting = select.poll()
    waiting.register(descriptor, 0)
    # The other end was closed before the kernel watched, or even before this end was opened.
    if waiting.poll(0) or os.getppid() != parent:
        os.killpg(0, signal.SIGKILL)


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.killpg(0, signal.SIGKILL)


def confine(policy: dict[str, Any]) -> str:
    """Apply a policy to this process as far as the system can, and return what was applied."""
    _limit(policy["limits"])
    if sys.platform == "linux":
        _be_killed_first()
        with contextlib.suppress(OSError):
            landlock.no_new_privileges()
        _drop_capabilities()
    earlier = _other_threads()
    version, without_landlock = 0, None
    try:
        version = landlock.restrict(policy["rules"])
    except OSError as error:
        without_landlock = landlock.why_missing(error)
    without_seccomp = seccomp.why_missing()
    if without_seccomp is None:
        try:
            seccomp.restrict(programs=policy["programs"])
        except OSError as error:
            without_seccomp = f"seccomp is refused ({error.strerror})"
    found = describe(version, without_landlock, without_seccomp)
    if earlier and version and not landlock.restricts_all_threads(version):
        found += f" (Landlock not for {earlier} threads that Python's start-up files started)"
    return found


def offered() -> str:
    """Return how this system can confine processes."""
    version, without_landlock = 0, None
    try:
        version = landlock.version()
    except OSError as error:
        without_landlock = landlock.why_missing(error)
    return describe(version, without_landlock, seccomp.why_missing())


def describe(version: int, without_landlock: str | None, without_seccomp: str | None) -> str:
    """Return `Landlock 7, seccomp`, or what is missing and why."""
    has = [f"Landlock {version}"] if without_landlock is None else []
    has += ["seccomp"] if without_seccomp is None else []
    lacks = [each for each in (without_landlock, without_seccomp) if each is not None]
    if not has:
        return f"not confined: {'; '.join(lacks)}"
    return ", ".join(has) if not lacks else f"{has[0]} only: {lacks[0]}"


def _other_threads() -> int:
    with contextlib.suppress(OSError):
        return len(list(Path("/proc/self/task").iterdir())) - 1
    return 0


def _limit(limits: dict[str, int]) -> None:
    """Lower the limits of this process, by their names in `resource`."""
    import resource

    for name, wanted in limits.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        known = [each for each in resource.getrlimit(number) if each != resource.RLIM_INFINITY]
        most = min([wanted, *known])
        with contextlib.suppress(OSError, ValueError):  # macOS refuses some
            resource.setrlimit(number, (most, most))


def _be_killed_first() -> None:
    """Tell the kernel to end this process, not another one, if memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST)


def _drop_capabilities() -> None:
    """Give up root's powers, except over the permissions of files, which Landlock restricts."""
    import ctypes

    number = _CAPSET.get(os.uname().machine)
    if number is None or os.geteuid() != 0:
        return
    header = struct.pack("=Ii", _PR_SET_CAPABILITIES_VERSION, 0)
    kept = struct.pack("=3I", _KEPT_CAPABILITIES, _KEPT_CAPABILITIES, 0)
    ctypes.CDLL(None).syscall(ctypes.c_long(number), header, kept + bytes(12))
