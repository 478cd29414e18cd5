"""Landlock: the Linux kernel restricts which files a process may use; no root is needed.

In: paths and rights. Out: the calling thread, and all that it starts from now on, is restricted.

These are own bindings because no package fits: `sandlock` needs Linux 6.12 and a supervisor,
`landlock` and `py-landlock` have no stable release or no scopes, `landlockpy` starts `ldconfig` and
is some weeks old, and bubblewrap needs user namespaces, which Ubuntu and containers refuse. Numbers
and layouts are those of the kernel's `include/uapi/linux/landlock.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15
READ = READ_FILE | READ_DIR
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13
WRITE = WRITE_FILE | TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER
"""Write, make, rename and remove files and folders, but no links, pipes, sockets and devices."""
USE_DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV

_RIGHTS_SINCE = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI version → number of rights
_TCP_SINCE, _TCP = 4, 0b11  # bind, connect
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract Unix sockets, signals to other processes
_ALL_THREADS_SINCE, _ALL_THREADS = 8, 1 << 3
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every processor
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38


def version() -> int:
    """Return the version of the kernel's Landlock.

    Raises:
        OSError: It has none; see `why_missing`.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _call(_CREATE_RULESET, None, 0, _VERSION)


def why_missing(error: OSError) -> str:
    """Return why there is no Landlock, by the error of `version`."""
    if sys.platform != "linux":
        return "this system has no Landlock"
    return {
        errno.ENOSYS: "this kernel has no Landlock (Linux 5.13 and later have it)",
        errno.EOPNOTSUPP: "Landlock is switched off (add landlock to the kernel's option lsm=)",
    }.get(error.errno or 0, f"Landlock is refused ({error.strerror})")


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Allow the rights of `rules` (path, and the rights in it and below it), and no other use of
    files, no TCP, no signals to processes outside. Return the version of Landlock.

    Paths that do not exist are skipped. Rights that the kernel does not know are left out.

    Raises:
        OSError: The kernel refused.
    """
    abi = version()
    known = (1 << max(count for since, count in _RIGHTS_SINCE.items() if since <= abi)) - 1
    fields = [known]
    fields += [_TCP] if abi >= _TCP_SINCE else []
    fields += [_SCOPES] if abi >= _SCOPES_SINCE else []
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & known)
        no_new_privileges()
        _call(_RESTRICT_SELF, ruleset, _ALL_THREADS if restricts_all_threads(abi) else 0)
    finally:
        os.close(ruleset)
    return abi


def restricts_all_threads(abi: int) -> bool:
    """Return whether this version restricts threads that already run, and not only the calling
    one."""
    return abi >= _ALL_THREADS_SINCE


def no_new_privileges() -> None:
    """Give up what setuid programs and file capabilities would add, for good.

    Raises:
        OSError: The kernel refused.
    """
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # missing, or out of reach anyway
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        if rights:
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    found = _libc().syscall(ctypes.c_long(number), *given)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library
