"""MNN on the CPU, in full precision."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.parsers.mnn import may_use_winograd, names_other_files, weight_precision
from toolkit.errors import ArtifactError, Crashed, InputError, Unsupported
from toolkit.schema import FLOAT32, Artifact, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

# Numbers from MNN's C++ headers (Interpreter.hpp, MNNForwardType.h), because its Python has no
# names for them.
_WINOGRAD_LEVEL = 3
_BACKENDS, _THREADS = 2, 4
_PROVIDERS = {0: "CPU", 13: "CPU_EXTENSION"}  # the second one has its AVX2 code

_ARITHMETIC: dict[Precision, str] = {
    "fp32": FLOAT32,
    "fp16": "float32 on float16 weights",
    "int8-weights": "float32 on int8 weights",
}

# By default, MNN chooses among Winograd convolutions with larger tiles, by the batch size: the
# logits of an image then differ by 3e-4 between batch sizes, and by 5e-4 from float32. With the
# smallest tile, the difference is 1e-5.
_SMALLEST_TILE = 1
_NO_WINOGRAD = 0  # source/backend/cpu/compute/ConvolutionFloatFactory.cpp


def load(source: Source, settings: Settings) -> Session:
    """Load an `.mnn` file.

    Raises:
        ArtifactError: MNN cannot read it.
        Unsupported: Streams of several threads.
    """
    import MNN

    if settings.threads > 1 and settings.streams > 1:
        raise Unsupported(
            f"MNN's sessions share one thread pool, so {settings.streams} streams of "
            f"{settings.threads} threads are not {settings.all_threads} threads; use --streams "
            "1, or --threads 1"
        )
    try:
        interpreter = MNN.Interpreter(str(source.path))
    except Exception as error:  # MNN raises no narrower type
        raise ArtifactError(
            f"{source.path}: MNN cannot read it ({error}); export it again with "
            "toolkit export --format mnn"
        ) from error
    data = source.path.read_bytes()
    beside = source.path.with_name(f"{source.path.name}.weight")  # MNN reads it without being asked
    if names_other_files(data) or beside.exists():
        raise ArtifactError(
            f"{source.path} keeps weights in other files, which its checksum does not cover; "
            "expected one file: export it again with toolkit export --format mnn"
        )
    level = _NO_WINOGRAD if settings.plain else _SMALLEST_TILE
    interpreter.setSessionHint(_WINOGRAD_LEVEL, level)
    session = interpreter.createSession(
        {
            "backend": "CPU",
            "numThread": settings.threads,
            "precision": "high",
            "memory": "normal",  # `low` multiplies int8 weights with activations converted to int8
        }
    )
    return MnnSession(
        interpreter,
        session,
        source.artifact,
        MNN.version(),
        weight_precision(data),
        winograd=level != _NO_WINOGRAD and may_use_winograd(data),
    )


class MnnSession:
    """A session of an interpreter, built for the most recent batch size.

    Inputs and logits are copied to and from arrays in the session's own memory.
    """

    def __init__(
        self,
        interpreter: Any,
        session: Any,
        artifact: Artifact,
        version: str,
        precision: Precision,
        *,
        winograd: bool,
    ) -> None:
        self._interpreter = interpreter
        self._session = session
        self._artifact = artifact
        self._version = version
        self._precision = precision
        self._winograd = winograd
        self._inputs: NDArray[Any] = np.empty(0, np.float32)
        self._logits: NDArray[Any] = np.empty(0, np.float32)

    @property
    def attestation(self) -> Attestation:
        """Backend and threads from the session, precision from the storage type of the weights. MNN
        does not report its arithmetic.

        Raises:
            Unsupported: It computes on a backend other than the CPU.
        """
        backend = self._interpreter.getSessionInfo(self._session, _BACKENDS)
        if backend not in _PROVIDERS:
            raise Unsupported(f"MNN {self._version} runs on its backend {backend}, not on the CPU")
        return Attestation(
            runtime="mnn",
            version=self._version,
            provider=_PROVIDERS[backend],
            device="cpu",
            precision=self._precision,
            threads=_whole(self._interpreter.getSessionInfo(self._session, _THREADS)),
            arithmetic="float32 (Winograd)" if self._winograd else _ARITHMETIC[self._precision],
            evidence={
                "provider": "read back",
                "precision": "from the file",
                "threads": "read back",
                "arithmetic": "as asked",
            },
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`.

        Raises:
            InputError: Another shape.
            Crashed: MNN reports an error, or returns something other than logits.
        """
        if inputs.shape != self._inputs.shape:
            self._resize(inputs.shape)
        self._inputs[...] = inputs
        code = self._interpreter.runSession(self._session)
        if code != 0:
            raise Crashed(f"MNN could not compute the model (code {code})")
        return self._logits.copy()  # the next call overwrites it

    def _resize(self, shape: tuple[int, ...]) -> None:
        """Rebuild the session for another batch size; the previous arrays are freed."""
        if shape[1:] != self._artifact.input_shape or shape[0] < 1:
            raise InputError(
                f"input of shape {list(shape)}, expected "
                f"[N, {', '.join(map(str, self._artifact.input_shape))}] with N >= 1"
            )
        inputs = self._interpreter.getSessionInput(self._session)
        self._interpreter.resizeTensor(inputs, shape)
        self._interpreter.resizeSession(self._session)
        given = np.uint8 if self._artifact.embeds_preprocessing else np.float32
        self._inputs = _memory_of(inputs, shape, np.dtype(given))
        logits = self._interpreter.getSessionOutput(self._session)
        self._logits = _memory_of(logits, (shape[0], self._artifact.classes), np.dtype(np.float32))


def _memory_of(tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array of a session's tensor.

    Raises:
        Crashed: It is not of this type and shape, in this order.
    """
    import MNN

    memory: NDArray[Any] = tensor.getNumpyData()
    in_order = tensor.getDimensionType() == MNN.Tensor_DimensionType_Caffe  # N,C,H,W
    if memory.shape != shape or memory.dtype != dtype or not in_order:
        raise Crashed(
            f"MNN has {memory.dtype} {list(memory.shape)} in order "
            f"{tensor.getDimensionType()}, expected {dtype} {list(shape)} in order "
            f"{MNN.Tensor_DimensionType_Caffe}"
        )
    return memory


def _whole(value: float) -> int:
    """Return a whole number that MNN's Python returns as the float with the same 4 bytes."""
    number: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return number
