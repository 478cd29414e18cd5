"""seccomp: a filter in the Linux kernel refuses system calls; no root is needed.

In: whether programs may be started. Out: this process, and all that it starts from now on, is
filtered (Linux 4.17 and later).

A short list of refusals, because the calls that a runtime needs are unknown. These are own bindings
because no package fits: `pyseccomp` needs the library libseccomp, which pip does not install, and
`seccompy` does not see the calls of the x32 ABI. The filter is classic BPF, as in the kernel's
`Documentation/userspace-api/seccomp_filter.rst`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_ARCHITECTURES = {  # name → AUDIT_ARCH_*, column in _NUMBERS, the number of seccomp(2)
    "x86_64": (0xC000003E, 0, 317),
    "aarch64": (0xC00000B7, 1, 277),
}
# Linux's numbers on x86_64 and on aarch64; None where there is no such call.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # The network. io_uring would open sockets past the filter.
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # Other processes of the same user. Landlock covers signals and /proc.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "shmctl": (31, 195),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "mq_unlink": (241, 181),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    # Files outside: Landlock does not cover their attributes, nor who watches them.
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "open_by_handle_at": (304, 265),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # Namespaces give new privileges inside them.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    # Parts of the kernel that no runtime needs.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
# Likewise attributes, but converters copy files with them. There, the calls do nothing and succeed.
_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_PROGRAMS: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
}
_CLONE, _CLONE3 = (56, 220), 435
_SOCKETPAIR, _PRLIMIT64, _IOCTL = (53, 199), (302, 261), (16, 29)
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020000
_STREAM_SOCKETS, _SOCKET_TYPE = (1, 5), 0xF  # SOCK_STREAM, SOCK_SEQPACKET
_REFUSED_REQUESTS = (  # of ioctl
    *(0x5412, 0x541C),  # TIOCSTI, TIOCLINUX: type into the user's terminal
    *(0x40086602, 0x401C5820),  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: attributes of files
)
_NEWEST_KNOWN = 469

_LOAD, _AND, _RETURN, _EQUAL, _GREATER, _BITS = 0x20, 0x54, 0x06, 0x15, 0x25, 0x45
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_IGNORE = 0x00050000  # the call returns 0
_REFUSE, _UNKNOWN = _IGNORE | errno.EPERM, _IGNORE | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24)  # offsets in struct seccomp_data
_SET_MODE_FILTER, _PR_SET_SECCOMP, _MODE_FILTER = 1, 22, 2
# Otherwise Linux before 5.16 slows down every filtered process against Spectre 4.
_SPEC_ALLOW = 1 << 2
_ALL_THREADS = 1 << 0

Instruction = tuple[int, int, int, int]


def why_missing() -> str | None:
    """Return why this system cannot filter system calls; None if it can."""
    if sys.platform != "linux":
        return "this system has no seccomp"
    if os.uname().machine not in _ARCHITECTURES:
        return f"the toolkit has no seccomp filter for {os.uname().machine}"
    library = ctypes.CDLL(None, use_errno=True)
    arguments = map(ctypes.c_ulong, (_MODE_FILTER, 0, 0, 0))
    library.prctl(_PR_SET_SECCOMP, *arguments)  # no filter is given: EFAULT, if it would be taken
    if ctypes.get_errno() == errno.EFAULT:
        return None
    return f"this kernel refuses seccomp filters ({os.strerror(ctypes.get_errno())})"


def restrict(*, programs: bool) -> None:
    """Install the filter; `no_new_privs` must be set. `programs` allows to start programs.

    Raises:
        OSError: The kernel refused.
    """
    filter_ = b"".join(struct.pack("=HBBI", *each) for each in program(programs=programs))
    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    description = struct.pack("HP", len(filter_) // 8, ctypes.addressof(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    number = ctypes.c_long(_ARCHITECTURES[os.uname().machine][2])
    mode = ctypes.c_long(_SET_MODE_FILTER)
    flags = ctypes.c_long(_SPEC_ALLOW | _ALL_THREADS)
    found = library.syscall(number, mode, flags, description)
    if found != 0:  # for a thread that cannot be filtered, its number
        code = ctypes.get_errno() if found < 0 else errno.ESRCH
        raise OSError(code, os.strerror(code))


def program(*, programs: bool, machine: str | None = None) -> list[Instruction]:
    """Return the filter for `machine` (default: this one) as (code, jump if true, jump if false,
    operand)."""
    architecture, column, _ = _ARCHITECTURES[machine or os.uname().machine]
    answers = {each[column]: _REFUSE for each in _NUMBERS.values()}
    answers |= {each[column]: _IGNORE if programs else _REFUSE for each in _ATTRIBUTES.values()}
    if not programs:
        answers |= {each[column]: _REFUSE for each in _PROGRAMS.values()}
    rules: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 0, 1, _NEWEST_KNOWN),  # also all calls of the x32 ABI, from 0x40000000 on
        (_RETURN, 0, 0, _UNKNOWN),
        (_EQUAL, 0, 1, _CLONE3),  # its flags are in memory; without it, the C library uses clone
        (_RETURN, 0, 0, _UNKNOWN),
    ]
    for number, answer in answers.items():
        if number is not None:
            rules += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    forbidden = _with_bits(_CLONE_NAMESPACES, refuse=True)
    if not programs:
        forbidden += _with_bits(_CLONE_THREAD, refuse=False)
    rules += _if_call(_CLONE[column], forbidden)
    rules += _if_call(_SOCKETPAIR[column], _stream_sockets_only())
    rules += _if_call(_PRLIMIT64[column], _own_limits_only())
    rules += _if_call(_IOCTL[column], _harmless_requests_only())
    return [*rules, (_RETURN, 0, 0, _ALLOW)]


def _if_call(number: int, then: list[Instruction]) -> list[Instruction]:
    """Return the rules of one call. They may end without a decision: the call is then allowed."""
    block = [*then, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(block), number), *block]


def _with_bits(bits: int, *, refuse: bool) -> list[Instruction]:
    """Refuse a first argument that has one of these bits, or that has none of them."""
    jumps = (0, 1) if refuse else (1, 0)
    return [(_LOAD, 0, 0, _ARGUMENTS[0]), (_BITS, *jumps, bits), (_RETURN, 0, 0, _REFUSE)]


def _stream_sockets_only() -> list[Instruction]:
    """Other socket pairs can send to any Unix socket."""
    stream, packets = _STREAM_SOCKETS
    return [
        (_LOAD, 0, 0, _ARGUMENTS[1]),
        (_AND, 0, 0, _SOCKET_TYPE),
        (_EQUAL, 2, 0, stream),
        (_EQUAL, 1, 0, packets),
        (_RETURN, 0, 0, _REFUSE),
    ]


def _own_limits_only() -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS[0]), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _REFUSE)]


def _harmless_requests_only() -> list[Instruction]:
    rules: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS[1])]
    for request in _REFUSED_REQUESTS:
        rules += [(_EQUAL, 0, 1, request), (_RETURN, 0, 0, _REFUSE)]
    return rules
