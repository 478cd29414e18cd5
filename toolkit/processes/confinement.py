"""Confinement: what a child process may do, and the command that starts it confined.

In: what it reads, writes and needs. Out: a `Confinement` with a command. The child confines itself
as it starts (`toolkit.processes.launch`) and is killed when the confinement is closed, or when this
process ends in any way. `docs/security.md` says how far that goes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.processes import landlock
from toolkit.processes.import_path import factory_folders
from toolkit.processes.launch import CONFINEMENT, offered

__all__ = ["CONFINEMENT", "SWITCH", "Confinement", "Needs", "offered", "own_folders"]

SWITCH = "TOOLKIT_UNCONFINED"
"""The environment variable that switches confinement off."""

_PACKAGE = Path(__file__).resolve().parents[1]
_SYSTEM = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/opt", "/proc", "/sys"),
    *("/nix/store", "/gnu/store", "/run/current-system", "/run/opengl-driver", "/snap"),
)
# Not all of /etc: for root, that includes the users' password hashes.
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "locale.alias"),
    *("localtime", "timezone", "nsswitch.conf", "passwd", "group", "hosts", "os-release"),
    *("lsb-release", "debian_version", "redhat-release", "mime.types", "magic", "fonts"),
    *("OpenCL", "vulkan", "nvidia", "ssl/certs", "pki/tls/certs", "python3"),
    *("ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies", "gnutls"),
    f"python{sys.version_info.major}.{sys.version_info.minor}",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPU_DEVICES = ("nvidia*", "nvidia-caps/*", "dri/*")
_PARTS_OF_A_PREFIX = ("bin", "include", "lib", "lib64", "libexec", "share")
_PYTHON_FILES = (".py", ".so", ".pth")
# Import this toolkit, wherever it is; its folder may not be on the child's path yet.
_START = (
    "import sys, importlib.util as u; s = u.spec_from_file_location('toolkit', {!r}); "
    "m = sys.modules['toolkit'] = u.module_from_spec(s); s.loader.exec_module(m); "
    "from toolkit.processes.launch import main; main()"
)
_MORE_PROCESSES = 4096
_ADDRESS_SPACE_BYTES = 256 << 30  # reserved by threads and libraries, beside what they use
_OWN_FOLDERS = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a child process needs besides its libraries and its scratch folder.

    Attributes:
        reads: Files and folders that it reads.
        writes: Folders that it writes, which exist.
        model: The user's model factory; see `toolkit.processes.import_path`.
        programs: It starts programs, such as a compiler.
        gpu: It uses CUDA, whose memory cannot be limited: CUDA reserves more than there is.
        memory_bytes: Most memory that it may allocate; None is all of this machine's.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    model: str | None = None
    programs: bool = False
    gpu: bool = False
    memory_bytes: int | None = None


class Confinement:
    """The confinement of one child process, whose own folder is `scratch`."""

    def __init__(self, scratch: Path, needs: Needs) -> None:
        scratch = scratch.resolve()
        lifeline, policy = scratch / "lifeline", scratch / "policy.json"
        os.mkfifo(lifeline, 0o600)
        self._lifeline: int | None = os.open(lifeline, os.O_RDWR | os.O_NONBLOCK)
        policy.write_text(
            json.dumps(
                {
                    "lifeline": str(lifeline),
                    "parent": os.getpid(),
                    "off": f"not confined: {SWITCH} is set" if _switched_off() else "",
                    "rules": list(_rules(scratch, needs)),
                    "limits": _limits(needs),
                    "programs": needs.programs,
                }
            )
        )
        # -P: the child must not import files from the current folder.
        start = _START.format(str(_PACKAGE / "__init__.py"))
        self.command = [sys.executable, "-P", "-u", "-c", start, str(policy)]
        """The start of a command; it goes on with `-m MODULE` or `-c CODE`."""

    def __enter__(self) -> Confinement:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and all processes that it started, as far as they still run."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _switched_off() -> bool:
    """Return whether the user switched confinement off."""
    return bool(os.environ.get(SWITCH))


def own_folders(scratch: Path) -> dict[str, str]:
    """Return environment variables that send what libraries keep for later to the scratch
    folder."""
    return dict.fromkeys(_OWN_FOLDERS, str(scratch))


def _limits(needs: Needs) -> dict[str, int]:
    """Return limits by their names in `resource`."""
    limits = {"RLIMIT_CORE": 0}
    tasks = _tasks()
    if tasks is not None:
        limits["RLIMIT_NPROC"] = tasks + _MORE_PROCESSES
    if not needs.gpu:
        memory = needs.memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits["RLIMIT_DATA"] = memory
        limits["RLIMIT_AS"] = 2 * memory + _ADDRESS_SPACE_BYTES
        limits["RLIMIT_FSIZE"] = memory  # files may be in memory
    return limits


def _tasks() -> int | None:
    """Return how many processes and threads there are; None if the system does not say."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return None


def _rules(scratch: Path, needs: Needs) -> Iterator[tuple[str, int]]:
    """Return the paths that a child may use, and Landlock's rights for them."""
    run = landlock.EXECUTE if needs.programs else 0
    for path in _libraries(programs=needs.programs):
        yield str(path), landlock.READ | run
    for name in _ETC:
        yield f"/etc/{name}", landlock.READ
    for name in _DEVICES:
        yield f"/dev/{name}", landlock.USE_DEVICE
    if needs.gpu:
        for pattern in _GPU_DEVICES:
            yield from ((str(each), landlock.USE_DEVICE) for each in Path("/dev").glob(pattern))
    for path in needs.reads:
        yield str(path.resolve()), landlock.READ
    if needs.model is not None:
        yield from _rules_of_modules(needs.model)
    shared = [Path("/dev/shm")] if needs.gpu else []
    for path in (scratch, *needs.writes, *shared):
        yield str(path.resolve()), landlock.READ | landlock.WRITE


def _libraries(*, programs: bool) -> Iterator[Path]:
    """Return the folders of the system's, Python's and the user's libraries."""
    yield from map(Path, _SYSTEM)
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix)):
        yield from _prefix(Path(prefix))
    yield _PACKAGE
    listed = [*sys.path, *_paths_in("LD_LIBRARY_PATH"), *_paths_in("CUDA_HOME", "CUDA_PATH")]
    if programs:
        listed += _paths_in("PATH")
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if compiler is not None:
            yield from _prefix(Path(compiler).resolve().parents[1])
    yield from (path for path in _resolved(listed) if not _holds_more(path))


def _prefix(folder: Path) -> Iterator[Path]:
    """Return the folder of an installation, or its parts if other files lie beside them."""
    folder = folder.resolve()
    if not _holds_more(folder):
        yield folder
    else:
        yield from (folder / part for part in _PARTS_OF_A_PREFIX)


def _holds_more(folder: Path) -> bool:
    """Return whether the folder holds all files of the user, or temporary files of others."""
    try:
        home = Path.home().resolve()
    except RuntimeError:  # there is none
        home = Path("/")
    return any(folder in (each, *each.parents) for each in (home, _temporary()))


def _temporary() -> Path:
    return Path(tempfile.gettempdir()).resolve()


def _rules_of_modules(factory: str) -> Iterator[tuple[str, int]]:
    """Return what the import of the user's modules reads: the folder that has them, or only the
    Python files in it if it holds more."""
    name = factory.partition(":")[0].partition(".")[0]
    folders = [Path(each) for each in factory_folders()]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        found = [*(spec.submodule_search_locations or ()), *filter(None, [spec.origin])]
        folders += [Path(each).parent for each in found]
    for folder in dict.fromkeys(each.resolve() for each in folders if each.is_dir()):
        if not _holds_more(folder):
            yield str(folder), landlock.READ
            continue
        yield str(folder), landlock.READ_DIR
        for each in folder.iterdir():
            if each.suffix in _PYTHON_FILES or (each / "__init__.py").is_file():
                yield str(each), landlock.READ


def _paths_in(*names: str) -> Sequence[str]:
    values = (os.environ.get(name, "") for name in names)
    return [each for value in values for each in value.split(os.pathsep) if each]


def _resolved(paths: Iterable[str]) -> Iterator[Path]:
    yield from dict.fromkeys(Path(each or ".").resolve() for each in paths)
