"""The runtimes that load artifacts: one row in this file, and one file per runtime.

Other packages add rows with entry points of the group `toolkit.runtimes`.

The module of a runtime has `load(source, settings) -> Session`. Nothing is imported until a worker
loads a session, so missing runtimes do not matter here.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence

from toolkit.errors import NotInstalled
from toolkit.names import ALL, known_name, known_names
from toolkit.packages import plugin_rows
from toolkit.sessions.runtimes._row import Loader, Runtime, Session, Source

__all__ = [
    "ALL",
    "CHECKPOINT_FORMAT",
    "ENTRY_POINTS",
    "RUNTIMES",
    "Loader",
    "Runtime",
    "Session",
    "Source",
    "find_runtime",
    "import_loader",
    "known_runtimes",
    "runtime_names",
]

CHECKPOINT_FORMAT = "checkpoint"
ENTRY_POINTS = "toolkit.runtimes"

# ONNX Runtime sends telemetry for each session from a separate thread (seen in 1.32).
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}


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
            uint8=True,
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="torchscript-frozen",
            module="toolkit.sessions.runtimes.torchscript_frozen",
            package="torch",
            distributions=("torch",),
            formats=("torchscript",),
            install="pip install torch",
            uint8=True,
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
            compiles=True,
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
            uint8=True,
            devices=("cpu", "cuda"),
        ),
        Runtime(
            name="aotinductor",
            module="toolkit.sessions.runtimes.aotinductor",
            package="torch",
            distributions=("torch",),
            formats=("aotinductor",),
            install="pip install torch",
            uint8=True,
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
            uint8=True,
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
            uint8=True,
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
            uint8=True,
        ),
        Runtime(
            name="tract",
            module="toolkit.sessions.runtimes.tract",
            package="tract",
            distributions=("tract",),
            formats=("onnx",),
            install="pip install 'toolkit[tract]'",
            precisions=("fp32", "fp16"),
            uint8=True,
            one_thread=True,
        ),
        Runtime(
            name="litert",
            module="toolkit.sessions.runtimes.litert",
            package="ai_edge_litert.interpreter",
            distributions=("ai-edge-litert",),
            formats=("litert",),
            install="pip install 'toolkit[litert]'",
            uint8=True,
        ),
        Runtime(
            name="executorch",
            module="toolkit.sessions.runtimes.executorch",
            package="executorch.runtime",
            distributions=("executorch",),
            formats=("executorch",),
            install="pip install 'toolkit[executorch]'",
            uint8=True,
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
            uint8=True,
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
            name="no-op",
            module="toolkit.sessions.runtimes.no_op",
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
    rows = RUNTIMES if name in RUNTIMES else known_runtimes()
    return rows[known_name("runtime", name, rows)]


def runtime_names(given: str | Sequence[str]) -> list[str]:
    """Return the names of the runtimes that the user named, and `all` for all of them. See
    `toolkit.names` for how names may be written.

    Raises:
        UnknownNameError: An unknown runtime.
    """
    return known_names("runtime", given, [*known_runtimes(), ALL])


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
