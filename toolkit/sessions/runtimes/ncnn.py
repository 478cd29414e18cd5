"""ncnn on the CPU. It computes one image at a time, so the session loops over the batch."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArtifactError, Crashed, InputError, Unsupported
from toolkit.machine.environment import NewThreads
from toolkit.schema import FLOAT32, Artifact, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

# By default, ncnn stores and multiplies in fp16 or bf16 if the CPU can.
_REDUCED = ("use_fp16_", "use_bf16_", "use_int8_")

# A mark before each weight says how it is stored (ncnn's modelbin.cpp); without a mark it is
# float32.
_HALF = (0x01306B47).to_bytes(4, "little")
_INT8 = (0x000D4B38).to_bytes(4, "little")


def load(source: Source, settings: Settings) -> Session:
    """Load a folder with `model.param` and `model.bin`, and run it once.

    Raises:
        ArtifactError: Damaged, or not a model with one input and one output.
        Unsupported: The weights are int8.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = settings.threads
    for option in _reduced_options(net):
        setattr(net.opt, option, False)
    if settings.plain:
        net.opt.use_winograd_convolution = False
    if net.load_param(str(source.path / "model.param")) != 0:
        raise _damaged(source.path, "ncnn cannot read model.param")
    precision = _load_weights(net, source.path)
    if (len(net.input_indexes()), len(net.output_indexes())) != (1, 1):
        raise _damaged(source.path, "expected one input and one output")
    graph = (source.path / "model.param").read_text(errors="replace")
    session = NcnnSession(net, source.artifact, ncnn.__version__, precision, graph=graph)
    session.check_once()
    return session


class NcnnSession:
    """A net with one input and one output, and its input image, which keeps its memory.

    The image has ncnn's layout: each channel starts at a multiple of 16 bytes. ncnn's Python also
    accepts an array without a copy, but layers crash on it if the size of a channel is not such a
    multiple.
    """

    def __init__(
        self, net: Any, artifact: Artifact, version: str, precision: Precision, *, graph: str
    ) -> None:
        import ncnn

        channels, height, width = artifact.input_shape
        self._net = net
        self._artifact = artifact
        self._version = version
        self._precision = precision
        self._threads: int = net.opt.num_threads
        self._counted = False
        self._winograd = may_use_winograd(graph)
        self._input: int = net.input_indexes()[0]
        self._output: int = net.output_indexes()[0]
        self._image = ncnn.Mat((width, height, channels))
        self._pixels: NDArray[np.float32] = np.asarray(self._image)  # [C,H,W], a view

    @property
    def attestation(self) -> Attestation:
        """Precision from the marks of the weights, threads counted by the system, arithmetic from
        the net's options.

        Raises:
            Unsupported: An option that reduces precision is on.
        """
        reduced = [name for name in _reduced_options(self._net) if getattr(self._net.opt, name)]
        if reduced:
            raise Unsupported(f"ncnn {self._version} does not switch off {', '.join(reduced)}")
        return Attestation(
            runtime="ncnn",
            version=self._version,
            provider="Vulkan" if self._net.opt.use_vulkan_compute else "CPU",
            device="cpu",
            precision=self._precision,
            threads=self._threads,
            arithmetic=self._arithmetic(),
            evidence={
                "provider": "read back",
                "precision": "from the file",
                "threads": "read back" if self._counted else "as asked",
                "arithmetic": "read back",
            },
        )

    def _arithmetic(self) -> str:
        if self._winograd and self._net.opt.use_winograd_convolution:
            return "float32 (Winograd)"
        return "float32 on float16 weights" if self._precision == "fp16" else FLOAT32

    def check_once(self) -> None:
        """Compute one image, and count the threads that this starts.

        OpenMP keeps its threads for the calling thread and ends them with it, so the threads that a
        new one starts belong to this session alone.

        Raises:
            Crashed: The model does not compute, or returns something other than logits.
        """
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(self._started_threads).result()
        if started is not None:
            self._threads, self._counted = started + 1, True

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 `[N,C,H,W]` → logits `[N,K]`.

        Raises:
            InputError: Another shape, for which ncnn gives wrong results.
            Crashed: ncnn reports an error.
        """
        if inputs.shape[1:] != self._artifact.input_shape:
            raise InputError(
                f"input of shape {list(inputs.shape)}, expected "
                f"[N, {', '.join(map(str, self._artifact.input_shape))}]"
            )
        logits = np.empty((len(inputs), self._artifact.classes), np.float32)
        for number, image in enumerate(inputs):
            logits[number] = self._compute(image)
        return logits

    def _compute(self, image: NDArray[np.float32]) -> Any:
        """One image `[C,H,W]` → ncnn's `[K]` or `[1,K]`."""
        self._pixels[...] = image
        extractor = self._net.create_extractor()
        extractor.input(self._input, self._image)
        code, logits = extractor.extract(self._output)
        if code != 0:
            raise Crashed(f"ncnn could not compute the model (code {code})")
        return logits

    def _started_threads(self) -> int | None:
        new_threads = NewThreads()
        logits = np.asarray(self._compute(np.zeros(self._artifact.input_shape, np.float32)))
        started = new_threads.count()
        if logits.size != self._artifact.classes:
            raise Crashed(
                f"ncnn returned {list(logits.shape)} for an image, expected "
                f"{self._artifact.classes} logits"
            )
        return started


def may_use_winograd(graph: str) -> bool:
    """Return whether `model.param` has a convolution that ncnn may compute with the Winograd
    method: 3x3, without strides or dilation (src/layer/x86/convolution_x86.cpp)."""
    for line in graph.splitlines():
        kind, *words = line.split() or [""]
        if not kind.startswith("Convolution"):
            continue
        given = dict(word.split("=", 1) for word in words if "=" in word)
        width, height = given.get("1", "0"), given.get("11", given.get("1", "0"))
        steps = [given.get(key, "1") for key in ("2", "12", "3", "13")]  # dilation and stride
        if (width, height) == ("3", "3") and set(steps) == {"1"}:
            return True
    return False


def _reduced_options(net: Any) -> list[str]:
    return [name for name in dir(net.opt) if name.startswith(_REDUCED)]


def _damaged(folder: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{folder}: {reason}; export it again with toolkit export --format ncnn")


def _load_weights(net: Any, folder: Path) -> Precision:
    """Load `model.bin`, and return how its weights are stored."""
    reader = _reader((folder / "model.bin").read_bytes())
    if net.load_model(reader) != 0 or reader.left != 0:
        raise _damaged(folder, "model.bin does not contain the weights of model.param")
    if _INT8 in reader.words:
        raise Unsupported(f"{folder} has int8 weights, expected float32 or float16")
    return "fp16" if _HALF in reader.words else "fp32"


def _reader(data: bytes) -> Any:
    """The reader of ncnn's weights; `words` are the 4 bytes that it read separately, `left` the
    unread bytes."""
    import ncnn

    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )

    class Reader(ncnn.DataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.left = len(data)
            self.words: set[bytes] = set()

        def read(self, buffer: object, size: int) -> int:
            start = len(data) - self.left
            part = data[start : start + size]
            ctypes.memmove(address_of(buffer, None), part, len(part))
            self.left -= len(part)
            if size == len(_HALF):
                self.words.add(part)
            return len(part)

    return Reader()
