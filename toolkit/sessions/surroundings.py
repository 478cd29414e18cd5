"""The surroundings of a worker: what it may use, and its environment variables.

In: a candidate. Out: what confinement must allow, and variables in addition to those that the
worker inherits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs

from toolkit.processes.confinement import Needs, own_folders
from toolkit.processes.numerics import PINNED_ENVIRONMENT
from toolkit.sessions.candidates import Candidate
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT

_WAIT_POLICY = "OMP_WAIT_POLICY"
_CUDA_CACHE, _TORCH_CACHE, _TRITON_CACHE = (
    *("CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
)


def needs_of(candidate: Candidate) -> Needs:
    """Return what the candidate's worker uses besides its libraries and its own folder. Folders for
    compiled code that the user named are created."""
    source = candidate.source
    caches = {each: os.environ[each] for each in (_CUDA_CACHE,) if each in os.environ}
    if candidate.runtime.compiles:
        caches |= _compiled_code()
    folders = tuple(Path(each) for each in caches.values())
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    return Needs(
        reads=(source.path,),
        writes=folders,
        model=source.model if source.artifact.format == CHECKPOINT_FORMAT else None,
        programs=candidate.runtime.compiles,
        gpu=candidate.settings.device != "cpu",
    )


def environment_of(candidate: Candidate, scratch: Path, *, shares: bool = False) -> dict[str, str]:
    """Return the environment variables of the candidate's worker, whose own folder is `scratch`. A
    worker that `shares` the machine with another one lets idle threads sleep instead of spin."""
    threads = str(candidate.settings.threads)
    asleep = {_WAIT_POLICY: os.environ.get(_WAIT_POLICY, "PASSIVE")} if shares else {}
    return {
        **own_folders(scratch),
        **(_compiled_code() if candidate.runtime.compiles else {}),
        **candidate.runtime.environment,
        **PINNED_ENVIRONMENT,
        **asleep,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        # By default, the driver stores compiled kernels in the user's home folder.
        _CUDA_CACHE: os.environ.get(_CUDA_CACHE, str(scratch / "cuda")),
    }


def _compiled_code() -> dict[str, str]:
    """Return the folders where torch keeps compiled code, so that the next worker need not compile
    again; none if they cannot be made. Unless the user names others, they are the toolkit's own: no
    worker writes what the user's other programs load."""
    own = Path(platformdirs.user_cache_path("toolkit")) / "compiled"
    folders = {_TORCH_CACHE: own / "inductor", _TRITON_CACHE: own / "triton"}
    folders |= {name: Path(os.environ[name]) for name in folders if name in os.environ}
    try:
        for each in folders.values():
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return {}
    return {name: str(each) for name, each in folders.items()}


def path_without_text(candidate: Candidate, scratch: Path) -> str | None:
    """Return a path that cannot be sent to the candidate's worker, because it contains bytes that
    are not UTF-8."""
    for path in (str(candidate.source.path), str(scratch), *sys.path):
        try:
            path.encode()
        except UnicodeEncodeError:
            return path
    return None
