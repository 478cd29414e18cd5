"""The runtimes that load artifacts: one row in this file, and one file per runtime.

Other packages add rows by entry points of the group `toolkit.runtimes`.

A runtime's module has `load(source, settings) -> Session`. Nothing is imported until a worker
loads a session, so this table costs nothing where a runtime is not installed.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import NotInstalled, UnknownNameError, Unsupported
from toolkit.packages import installed_version, plugin_rows
from toolkit.schema import Artifact, Attestation, Device, Precision, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECKPOINT_FORMAT = "checkpoint"
ENTRY_POINTS = "toolkit.runtimes"
ALL = "all"

# ONNX Runtime sends telemetry for each session from a separate thread (seen in 1.32).
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The row of a runtime.

    Attributes:
        module: Has the loader.
        package: What it imports; importing it is not part of the load time.
        distributions: Any one of them must be installed.
        formats: Those it loads; `checkpoint` stands for the checkpoint folder itself.
        install: The command that installs it.
        precisions: Those of the formats' that it loads; None is all.
        one_thread: It computes in one thread, whatever is asked for.
        one_stream: It computes one call at a time in a process.
        own_threads: It decides by itself how many threads compute, and does not tell.
        opt_in: Takes part only if it or `all` is named: it takes long, or has few uses.
        devices: Where its sessions run.
        cpu_formats: Those of its formats that it loads on the CPU only.
        systems: Where it runs, as `sys.platform` has it; None is everywhere.
        environment: Variables that must be set before its package is imported. The toolkit's own
            settings for threads and arithmetic overrule them.
    """

    name: str
    module: str
    package: str
    distributions: tuple[str, ...]
    formats: tuple[str, ...]
    install: str
    precisions: tuple[Precision, ...] | None = None
    one_thread: bool = False
    one_stream: bool = False
    own_threads: bool = False
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

    def refuse(self, settings: Settings, format: str | None = None) -> None:
        """Refuse impossible settings before a worker starts; `format` is that of the artifact.

        Raises:
            Unsupported: says where it runs, or how many calls it takes at a time.
        """
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
    asks eager PyTorch to compute like a narrower precision, see
    `toolkit.artifacts.rounding.torch_model.VARIANTS`; other runtimes ignore it.
    """

    path: Path
    artifact: Artifact
    model: str | None = None
    variant: str | None = None


class Session(Protocol):
    """A loaded artifact with fixed settings.

    `run` takes float32 `[N,C,H,W]`, normalised, and returns logits `[N,K]` in host memory (float32;
    float64 if the attested precision is fp64). The caller owns both arrays.
    """

    @property
    def attestation(self) -> Attestation: ...

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]: ...


class Loader(Protocol):
    """The interface of a runtime's module."""

    def load(self, source: Source, settings: Settings) -> Session: ...


RUNTIMES = {
    row.name: row
    for row in (
        Runtime(
            name="eager",
            module="toolkit.sessions.runtimes.eager",
            package="torch",
            distributions=("torch",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install torch",
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="cudagraph",
            module="toolkit.sessions.runtimes.cudagraph",
            package="torch",
            distributions=("torch",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install torch",
            one_stream=True,
            opt_in=True,
            devices=("cuda",),
        ),
        Runtime(
            name="torchscript",
            module="toolkit.sessions.runtimes.torchscript",
            package="torch",
            distributions=("torch",),
            formats=("torchscript",),
            install="pip install torch",
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="torchscript-frozen",
            module="toolkit.sessions.runtimes.torchscript_frozen",
            package="torch",
            distributions=("torch",),
            formats=("torchscript",),
            install="pip install torch",
            opt_in=True,
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="compile",
            module="toolkit.sessions.runtimes.compile",
            package="torch._inductor.compile_fx",
            distributions=("torch",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install torch",
            opt_in=True,
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="pt2",
            module="toolkit.sessions.runtimes.pt2",
            # All modules that its loader would import; otherwise the import (1.2 s) counts as load
            # time.
            package="torch.export.pt2_archive._package",
            distributions=("torch",),
            formats=("pt2",),
            install="pip install torch",
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="aotinductor",
            module="toolkit.sessions.runtimes.aotinductor",
            package="torch",
            distributions=("torch",),
            formats=("aotinductor",),
            install="pip install torch",
            opt_in=True,
            # Without this, an input of another shape or dtype gives garbage.
            environment={"AOTI_RUNTIME_CHECK_INPUTS": "1"},
        ),
        Runtime(
            name="onnxruntime",
            module="toolkit.sessions.runtimes.onnxruntime",
            package="onnxruntime",
            distributions=("onnxruntime", "onnxruntime-gpu"),
            formats=("onnx", "ort"),
            install="pip install onnxruntime",
            devices=("cpu", "cuda"),
            # It has the operators of the CPU provider: on CUDA, the first call ends with a
            # segmentation fault (seen in 1.31).
            cpu_formats=("ort",),
            environment=_NO_TELEMETRY,
        ),
        Runtime(
            name="tensorrt",
            module="toolkit.sessions.runtimes.tensorrt",
            package="onnxruntime",
            distributions=("onnxruntime-gpu",),
            formats=("onnx",),
            install="pip install onnxruntime-gpu",
            precisions=("fp32", "fp16"),
            opt_in=True,
            devices=("cuda",),
            environment=_NO_TELEMETRY,
        ),
        Runtime(
            name="openvino",
            module="toolkit.sessions.runtimes.openvino",
            package="openvino",
            distributions=("openvino",),
            formats=("onnx", "openvino"),
            install="pip install 'toolkit[openvino]'",
            precisions=("fp32", "fp16", "int8"),
        ),
        Runtime(
            name="tract",
            module="toolkit.sessions.runtimes.tract",
            package="tract",
            distributions=("tract",),
            formats=("onnx",),
            install="pip install 'toolkit[tract]'",
            precisions=("fp32", "fp16"),
            one_thread=True,
        ),
        Runtime(
            name="litert",
            module="toolkit.sessions.runtimes.litert",
            package="ai_edge_litert.interpreter",
            distributions=("ai-edge-litert",),
            formats=("litert",),
            install="pip install 'toolkit[litert]'",
        ),
        Runtime(
            name="executorch",
            module="toolkit.sessions.runtimes.executorch",
            package="executorch.runtime",
            distributions=("executorch",),
            formats=("executorch",),
            install="pip install 'toolkit[executorch]'",
            # Its Python binding holds the GIL while it computes (seen in 1.5.1), and all sessions
            # of a process share one thread pool.
            one_stream=True,
        ),
        Runtime(
            name="ncnn",
            module="toolkit.sessions.runtimes.ncnn",
            package="ncnn",
            distributions=("ncnn",),
            formats=("ncnn",),
            install="pip install 'toolkit[ncnn]'",
        ),
        Runtime(
            name="mnn",
            module="toolkit.sessions.runtimes.mnn",
            package="MNN",
            distributions=("MNN",),
            formats=("mnn",),
            install="pip install 'toolkit[mnn]'",
        ),
        Runtime(
            name="coreml",
            module="toolkit.sessions.runtimes.coreml",
            package="coremltools",
            distributions=("coremltools",),
            formats=("coreml",),
            install="pip install 'toolkit[coreml]'",
            own_threads=True,
            systems=("darwin",),
        ),
        Runtime(
            name="null",
            module="toolkit.sessions.runtimes.null",
            package="numpy",
            distributions=("numpy",),
            formats=(CHECKPOINT_FORMAT,),
            install="pip install numpy",
            devices=("cpu", "cuda"),
        ),
    )
}


def known_runtimes() -> dict[str, Runtime]:
    """Return the rows of this table, then the rows that other packages add, by name."""
    return {**RUNTIMES, **_plugins()}


@functools.cache
def _plugins() -> dict[str, Runtime]:
    return plugin_rows(ENTRY_POINTS, Runtime, built_in=RUNTIMES)


def find_runtime(name: str) -> Runtime:
    """Return the row of a runtime.

    Raises:
        UnknownNameError: No such runtime; the message lists the known ones.
    """
    found = RUNTIMES.get(name) or known_runtimes().get(name)
    if found is None:
        raise UnknownNameError("runtime", name, list(known_runtimes()))
    return found


def import_loader(module: str, package: str, install: str) -> Loader:
    """Import a runtime's module, then the package that it uses, because the module may prepare its
    import.

    Raises:
        NotInstalled: The package is missing; the message has the install command.
    """
    loader: Loader = importlib.import_module(module)
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise NotInstalled(install) from error
    return loader
