"""The row of a runtime, and the interfaces of a runtime's module and its sessions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import Unsupported
from toolkit.packages import installed_version
from toolkit.schema import Artifact, Attestation, Device, Inputs, Precision, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The row of a runtime.

    Attributes:
        module: The module with the loader.
        package: The package that the module imports. Its import is not part of the load time.
        distributions: Distributions of which at least one must be installed.
        formats: Formats that it loads; `checkpoint` is the checkpoint folder itself.
        install: The command that installs it.
        precisions: Precisions that it loads; None is all.
        uint8: It loads artifacts whose input is uint8.
        one_thread: It always computes in one thread.
        one_stream: It computes one call at a time per process.
        own_threads: It chooses the number of threads itself, and does not report it.
        compiles: It starts a compiler, and keeps compiled code for later.
        opt_in: It is used only if it or `all` is named, because it is slow or specialised.
        devices: Devices that its sessions run on.
        cpu_formats: Formats that it loads on the CPU only.
        systems: Operating systems that it runs on, as in `sys.platform`; None is all.
        environment: Variables that must be set before its package is imported. The toolkit's own
            settings for threads and arithmetic override them.
    """

    name: str
    module: str
    package: str
    distributions: tuple[str, ...]
    formats: tuple[str, ...]
    install: str
    precisions: tuple[Precision, ...] | None = None
    uint8: bool = False
    one_thread: bool = False
    one_stream: bool = False
    own_threads: bool = False
    compiles: bool = False
    opt_in: bool = False
    devices: tuple[Device, ...] = ("cpu",)
    cpu_formats: tuple[str, ...] = ()
    systems: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    def loads(self, format: str, precision: Precision) -> bool:
        """Return whether it loads artifacts of this format and precision."""
        fits = self.precisions is None or precision in self.precisions
        return format in self.formats and fits

    def what_it_loads(self) -> str:
        """Describe what it loads."""
        precisions = f" in {', '.join(self.precisions)}" if self.precisions else ""
        return ", ".join(self.formats) + precisions

    def where_it_runs(self) -> str:
        """Describe where it runs."""
        systems = f" on {', '.join(self.systems)}" if self.systems else ""
        return ", ".join(self.devices) + systems

    def runs_on(self, device: Device) -> bool:
        """Return whether it runs on this operating system, on `device`."""
        return (self.systems is None or sys.platform in self.systems) and device in self.devices

    def refuse(self, settings: Settings, format: str | None = None, *, uint8: bool = False) -> None:
        """Refuse impossible settings before a worker starts; `format` is that of the artifact,
        `uint8` says that its input is uint8.

        Raises:
            Unsupported: The message says where it runs, how many calls it takes at a time, or which
                input.
        """
        if uint8 and not self.uint8:
            raise Unsupported(
                f"{self.name} takes float32 input, but that of this file is uint8; use toolkit "
                f"export --format {self.formats[0]} without --embed-preprocessing"
            )
        if self.systems is not None and sys.platform not in self.systems:
            raise Unsupported(
                f"{self.name} runs only on {', '.join(self.systems)}, but this is {sys.platform}"
            )
        if settings.device not in self.devices:
            raise Unsupported(
                f"{self.name} runs only on {', '.join(self.devices)}, not on {settings.device}; "
                f"use --device {self.devices[0]}"
            )
        if format in self.cpu_formats and settings.device != "cpu":
            others = [each for each in self.formats if each not in self.cpu_formats]
            raise Unsupported(
                f"{self.name} loads {format} on cpu only, not on {settings.device}; use "
                f"--device cpu, or toolkit export --format {others[0]}"
            )
        if settings.streams > 1 and self.one_stream:
            raise Unsupported(
                f"{self.name} computes one call at a time per process, but {settings.streams} "
                "streams were requested; use --streams 1"
            )

    def version(self) -> str | None:
        """Return the installed version, or None."""
        found = (installed_version(name) for name in self.distributions)
        return next((version for version in found if version is not None), None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of a session: the artifact's file (or the checkpoint folder) and its record.

    `model` is the model factory that the user trusts, for runtimes that build the model. `variant`
    asks eager PyTorch to round or to add in another way, see
    `toolkit.artifacts.rounding.torch_model.apply_variant`; other runtimes ignore it.
    """

    path: Path
    artifact: Artifact
    model: str | None = None
    variant: str | None = None


class Session(Protocol):
    """A loaded artifact with fixed settings.

    `run` takes float32 `[N,C,H,W]`, normalised, or uint8 if the artifact embeds its preprocessing.
    It returns logits `[N,K]` in host memory (float32; float64 if the attested precision is fp64).
    The caller owns both arrays.
    """

    @property
    def attestation(self) -> Attestation: ...

    def run(self, inputs: Inputs) -> NDArray[np.floating]: ...


class Loader(Protocol):
    """The interface of a runtime's module."""

    def load(self, source: Source, settings: Settings) -> Session: ...
