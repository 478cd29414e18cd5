"""AOTInductor packages: native code, so loading a package runs its code."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ArtifactError, Unsupported
from toolkit.machine.environment import instruction_sets
from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source

_MODEL_FOLDER = "data/aotinductor/model/"
_folders: dict[str, Path] = {}  # where packages were unpacked, by checksum


def load(source: Source, settings: Settings) -> Session:
    """Load an `.aoti.pt2` package.

    Raises:
        ArtifactError: Not such a package.
        Unsupported: Compiled for another device or processor.
    """
    from torch._C._aoti import AOTIModelContainerRunnerCpu

    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    with _unpacked(source) as (library, metadata):
        _check_target(metadata, settings)
        runner: Any = AOTIModelContainerRunnerCpu(str(library), 1)
    weights = runner.extract_constants_map(False).values()
    return TorchSession(
        "aotinductor", lambda batch: runner.run([batch])[0], weights, device, compiled=True
    )


@contextmanager
def _unpacked(source: Source) -> Iterator[tuple[Path, dict[str, str]]]:
    """Return its metadata, and its library for the time needed to open it.

    torch's own loader unpacks to a folder that only its destructor removes; a worker ends without
    calling it. An open library no longer needs its file. It is never closed, but is found again by
    its path, so a package always has the same path within a process.
    """
    folder = _folders.get(source.artifact.sha256)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="toolkit-aotinductor-"))
        _folders[source.artifact.sha256] = folder
    else:
        folder.mkdir(mode=0o700)
    try:
        yield _unpack(source.path, folder)
    finally:
        shutil.rmtree(folder)


def _unpack(path: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Unpack the model's files into `folder`; return its shared library and its metadata."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _MODEL_FOLDER in name:
                    archive.extract(name, folder)
        (library,) = folder.rglob("*.so")
        (description,) = folder.rglob("*.wrapper_metadata.json")
        metadata: dict[str, str] = json.loads(description.read_text())
    except (zipfile.BadZipFile, ValueError) as error:
        raise ArtifactError(
            f"{path}: not an AOTInductor package ({error}); export it again"
        ) from error
    return library, metadata


def _check_target(metadata: dict[str, str], settings: Settings) -> None:
    """Raise Unsupported if its machine code would not run, or would end in SIGILL."""
    device, machine = metadata.get("AOTI_DEVICE_KEY"), metadata.get("AOTI_MACHINE")
    if device != settings.device:
        raise Unsupported(f"compiled for {device}, but {settings.device} was requested")
    needed = filter(None, metadata.get("instruction_sets", "").split(","))
    missing = sorted(set(needed) - set(instruction_sets()))
    if machine != platform.machine() or missing:
        raise Unsupported(
            f"compiled on {machine} with {metadata.get('instruction_sets')}; this is "
            f"{platform.machine()} without {', '.join(missing) or 'that machine code'}: "
            "export it on a processor like the one that runs it"
        )
