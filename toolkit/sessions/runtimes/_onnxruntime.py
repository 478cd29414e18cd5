"""Shared code of the ONNX Runtime sessions: one provider, and the attestation of what ran.

Inputs and outputs are not bound in advance, because that made no difference (0.2 % at a batch of
100, 0.4 % at 1, medians of alternating calls).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.parsers.onnx import Contents, read_onnx, read_ort
from toolkit.errors import ArtifactError, Unsupported
from toolkit.machine.environment import NewThreads
from toolkit.packages import installed_version
from toolkit.schema import FLOAT32, Attestation, Device, Evidence, Inputs, Settings
from toolkit.sessions.runtimes import Source
from toolkit.sessions.runtimes._cuda_libraries import (
    count_cuda_devices,
    loading_error,
    preload_cuda_libraries,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# CUDA's provider has no int8 kernels for static int8. It computes these operators in float32, on
# the results of DequantizeLinear, which int8 can represent.
_FLOAT_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_FLOAT_OF_INT8 = "float32 on int8 values"
_FAST_PRODUCTS = "mlas.enable_gemm_fastmath_arm64_bfloat16"


def open_session(
    source: Source,
    settings: Settings,
    *,
    runtime: str,
    provider: str,
    options: Mapping[str, str],
    whole: bool = False,
) -> OnnxSession:
    """Load an `.onnx` or `.ort` file on `provider`; with `whole`, no operator may run on the CPU.

    Raises:
        Unsupported: The provider or its device is missing, or the session got another provider.
    """
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise Unsupported(_no_provider(onnxruntime, provider))
    if provider != CPU:
        if not count_cuda_devices():
            raise Unsupported(
                f"onnxruntime {onnxruntime.__version__} finds no CUDA device here (see nvidia-smi "
                "and CUDA_VISIBLE_DEVICES); use --device cpu"
            )
        preload_cuda_libraries()
    own_format = source.artifact.format == "ort"
    asked = onnxruntime.SessionOptions()
    asked.intra_op_num_threads = settings.threads
    asked.inter_op_num_threads = 1
    asked.log_severity_level = 3
    for name, value in _session_config(own_format=own_format, whole=whole).items():
        asked.add_session_config_entry(name, value)
    new_threads = NewThreads()
    session = onnxruntime.InferenceSession(
        str(source.path),
        sess_options=asked,
        providers=[(provider, dict(options))],
        enable_fallback=0,  # otherwise the CPU silently runs operators that the provider lacks
    )
    if session.get_providers()[0] != provider:
        # Without this check, a missing CUDA library shows only as a warning and a slow CPU run.
        raise Unsupported(_not_the_one(onnxruntime, provider, session.get_providers()[0]))
    started = new_threads.count()
    contents = read_ort(source.path) if own_format else read_onnx(source.path)
    if contents.external:
        raise ArtifactError(
            f"{source.path} keeps tensors in {', '.join(contents.external)}, which its checksum "
            "does not cover; expected one file"
        )
    threads = session.get_session_options().intra_op_num_threads
    if settings.device == "cpu" and started is not None:
        threads = 1 + started  # the calling thread works too; a GPU's driver starts others
    return OnnxSession(
        session,
        runtime=runtime,
        version=onnxruntime.__version__,
        contents=contents,
        threads=threads,
        counted=started is not None,
    )


def _session_config(*, own_format: bool, whole: bool) -> dict[str, str]:
    """Return ONNX Runtime's configuration entries of a session."""
    return {
        # Its threads spin during a call, which is the default, but not after it: an idle worker
        # must not take the core from the one that is being timed.
        "session.force_spinning_stop": "1",
        "session.load_model_format": "ORT" if own_format else "ONNX",
        "session.disable_cpu_ep_fallback": str(int(whole)),
        "session.record_ep_graph_assignment_info": "1",
        # On ARM it can compute float32 products in bfloat16.
        _FAST_PRODUCTS: "0",
    }


def _no_provider(onnxruntime: Any, provider: str) -> str:
    """Return why the provider is missing, and what to do."""
    found = ", ".join(onnxruntime.get_available_providers())
    text = f"onnxruntime {onnxruntime.__version__} has no {provider}, only {found}"
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        return (
            f"{text}: onnxruntime and onnxruntime-gpu are both installed, and the later one "
            "replaced the files of the other; pip uninstall -y onnxruntime onnxruntime-gpu && pip "
            "install onnxruntime-gpu"
        )
    return (
        f"{text}; install onnxruntime-gpu in place of onnxruntime: pip uninstall -y onnxruntime "
        "&& pip install onnxruntime-gpu"
    )


def _not_the_one(onnxruntime: Any, provider: str, runs: str) -> str:
    """Return why the session runs on another provider, and what to do."""
    text = f"asked onnxruntime {onnxruntime.__version__} for {provider}, it runs {runs}"
    short = provider.removesuffix("ExecutionProvider").lower()
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{short}.so"
    if (error := loading_error(library)) is None:
        return f"{text}; its libraries may be of another version"
    return f"{text}, because a library is missing: {error}; {_how_to_get_libraries(provider)}"


def _how_to_get_libraries(provider: str) -> str:
    if provider != CUDA:
        return "pip install tensorrt, in the version that this onnxruntime-gpu was built for"
    from onnxruntime.capi import build_and_package_info

    version = getattr(build_and_package_info, "cuda_version", "of its version")
    return f"install a torch built for CUDA {version}, which brings CUDA's libraries"


class OnnxSession:
    """An `InferenceSession` with one input and one output."""

    def __init__(
        self,
        session: Any,
        *,
        runtime: str,
        version: str,
        contents: Contents,
        threads: int,
        counted: bool,
    ) -> None:
        self._session = session
        self._runtime = runtime
        self._version = version
        self._contents = contents
        self._threads = threads
        self._counted = counted

    @property
    def attestation(self) -> Attestation:
        """Provider from the session, with its share of the operators if it does not run all of
        them; precision and arithmetic from the file; threads counted by the system."""
        provider = self._session.get_providers()[0]
        device: Device = "cpu" if provider == CPU else "cuda"
        arithmetic, evidence = self._arithmetic(provider)
        return Attestation(
            runtime=self._runtime,
            version=self._version,
            provider=provider + self._share(provider),
            device=device,
            precision=self._contents.precision,
            threads=self._threads,
            arithmetic=arithmetic,
            evidence={
                "provider": "read back",
                "precision": "from the file",
                "threads": "read back" if self._counted and device == "cpu" else "as asked",
                "arithmetic": evidence,
            },
        )

    def _arithmetic(self, provider: str) -> tuple[str, Evidence]:
        """Return the arithmetic of the file if the provider does not reduce it. On a CPU, all
        kernels use the types in the file. On CUDA, an option is read back. TensorRT does not report
        it."""
        word = self._contents.arithmetic
        if provider == CPU:
            return word, "from the file"
        if provider != CUDA:
            return word, "as asked"
        options = self._session.get_provider_options()[CUDA]
        if word == FLOAT32 and options.get("use_tf32") != "0":
            return "TF32", "read back"
        if word == "int8" and _FLOAT_PRODUCTS & set(self._operators().get(CUDA, ())):
            return _FLOAT_OF_INT8, "read back"
        return word, "read back"

    def _share(self, provider: str) -> str:
        operators = self._operators()
        count = sum(map(len, operators.values()))
        own = len(operators.get(provider, ()))
        return "" if own == count else f" ({own} of {count} operators)"

    def _operators(self) -> dict[str, list[str]]:
        """Return the operator types of each provider; empty in older versions."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return {}
        found: dict[str, list[str]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
        return found

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`."""
        logits: NDArray[np.floating] = self._session.run(["logits"], {"input": inputs})[0]
        return logits
