"""The runtimes that load artifacts: one row here, one file beside this one.

A runtime's module has `load(source, settings) -> Session`. Nothing is imported until a worker
loads a session, so this table costs nothing where a runtime is not installed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import NotInstalled, UnknownNameError
from toolkit.schema import Artifact, Attestation, Settings
from toolkit.versions import installed_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECKPOINT_FORMAT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One row: `module` has the loader, `package` is what it imports, `distributions` (any one of
    them) must be installed, `install` is the command that does it.

    `formats` are those it loads; `checkpoint` stands for the checkpoint folder itself.
    """

    name: str
    module: str
    package: str
    distributions: tuple[str, ...]
    formats: tuple[str, ...]
    install: str

    def version(self) -> str | None:
        """The installed version, or None."""
        found = (installed_version(name) for name in self.distributions)
        return next((version for version in found if version is not None), None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a session is loaded from: the artifact's file (or the checkpoint folder) and its record.

    `model` is the model factory that the user trusts, for runtimes that build the model.
    """

    path: Path
    artifact: Artifact
    model: str | None = None


class Session(Protocol):
    """A loaded artifact with fixed settings.

    `run` takes float32 `[N,C,H,W]`, normalised, and returns logits `[N,K]` in host memory
    (float32; float64 where the attested precision is fp64). The caller owns both arrays.
    """

    @property
    def attestation(self) -> Attestation: ...

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]: ...


class Loader(Protocol):
    """What a runtime's module provides."""

    def load(self, source: Source, settings: Settings) -> Session: ...


RUNTIMES = {
    row.name: row
    for row in (
        Runtime(
            name="eager",
            module="toolkit.runtimes.eager",
            package="torch",
            distributions=("torch",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install torch",
        ),
        Runtime(
            name="torchscript",
            module="toolkit.runtimes.torchscript",
            package="torch",
            distributions=("torch",),
            formats=("torchscript",),
            install="pip install torch",
        ),
        Runtime(
            name="pt2",
            module="toolkit.runtimes.pt2",
            # All that its loader would import: else the import, 1.2 s, counts as load time.
            package="torch.export.pt2_archive._package",
            distributions=("torch",),
            formats=("pt2",),
            install="pip install torch",
        ),
        Runtime(
            name="onnxruntime",
            module="toolkit.runtimes.onnxruntime",
            package="onnxruntime",
            distributions=("onnxruntime", "onnxruntime-gpu"),
            formats=("onnx",),
            install="pip install onnxruntime",
        ),
        Runtime(
            name="openvino",
            module="toolkit.runtimes.openvino",
            package="openvino",
            distributions=("openvino",),
            formats=("onnx",),
            install="pip install 'toolkit[openvino]'",
        ),
        Runtime(
            name="null",
            module="toolkit.runtimes.null",
            package="numpy",
            distributions=("numpy",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install numpy",
        ),
    )
}


def find_runtime(name: str) -> Runtime:
    """The row of a runtime.

    Raises:
        UnknownNameError: no such runtime; the message lists the known ones.
    """
    if name not in RUNTIMES:
        raise UnknownNameError("runtime", name, list(RUNTIMES))
    return RUNTIMES[name]


def import_loader(module: str, package: str, install: str) -> Loader:
    """Import a runtime's module, then the package it stands on, whose import it may prepare.

    Raises:
        NotInstalled: the package is missing; says the command that installs it.
    """
    loader: Loader = importlib.import_module(module)
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise NotInstalled(install) from error
    return loader
