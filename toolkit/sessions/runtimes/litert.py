"""LiteRT (TensorFlow Lite) on the CPU, with its XNNPACK delegate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArtifactError, headline
from toolkit.machine.environment import NewThreads
from toolkit.packages import installed_version
from toolkit.schema import FLOAT32, UNKNOWN, Artifact, Attestation, Inputs, Precision, Settings
from toolkit.sessions.runtimes import Session, Source

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_DELEGATE = "DELEGATE"
_REDUCED_PRECISION = b"reduced_precision_support"
_ARITHMETIC: dict[Precision, str] = {
    "fp32": FLOAT32,
    "fp16": "float32 on float16 weights",
    "int8": "int8",
    "int8-dynamic": "int8 (dynamic)",
    "int8-weights": "float32 on int8 weights",
}


def load(source: Source, settings: Settings) -> Session:
    """Load a folder of `.tflite` files; memory for a file is allocated at the first call of its
    batch size.

    Raises:
        ArtifactError: A file is damaged, or none takes a single image.
    """
    files = [
        BatchFile(path, source.artifact, threads=settings.threads)
        for path in sorted(source.path.glob("*.tflite"))
    ]
    sizes = [each.size for each in files]
    if 1 not in sizes or len(set(sizes)) < len(sizes):
        raise ArtifactError(
            f"{source.path}: files for batch sizes {sizes}, expected one for a single image and "
            "at most one per size; export it again with toolkit export --format litert --force"
        )
    return LitertSession(files)


class BatchFile:
    """One file: an interpreter for one batch size, `[size,C,H,W]` → `[size,K]` in float32."""

    def __init__(self, path: Path, artifact: Artifact, *, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            (given,) = self._interpreter.get_input_details()
            (wanted,) = self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path}: not a .tflite file with one input and one output ({headline(error)}); "
                "export it again with toolkit export --format litert --force"
            ) from error
        dtypes = (given["dtype"], wanted["dtype"])
        fed = np.uint8 if artifact.embeds_preprocessing else np.float32
        if tuple(given["shape"][1:]) != artifact.input_shape or dtypes != (fed, np.float32):
            raise ArtifactError(
                f"{path}: takes {given['dtype'].__name__} {given['shape'].tolist()} and gives "
                f"{wanted['dtype'].__name__}, expected {fed.__name__} [N, "
                f"{', '.join(map(str, artifact.input_shape))}] and float32"
            )
        self.size = int(given["shape"][0])
        self._input, self._output = given["index"], wanted["index"]
        self._asked_threads = threads
        self._threads: int | None = None
        self._counted = False
        self.name = path.name
        # A mark in the file lets XNNPACK compute float32 operators in float16 if the CPU can.
        self._may_halve = _REDUCED_PRECISION in path.read_bytes()

    def run(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return logits in a separate array."""
        if self._threads is None:
            self._threads = self._prepare()
        self._interpreter.set_tensor(self._input, inputs)
        self._interpreter.invoke()
        logits: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return logits

    def _prepare(self) -> int:
        """Pass the graph to the delegate, which packs the weights; return the threads."""
        new_threads = NewThreads()
        self._interpreter.allocate_tensors()
        started = new_threads.count()
        if started is None:
            return self._asked_threads
        self._counted = True
        return 1 + started  # the calling thread works too

    @property
    def threads(self) -> int:
        """The threads as counted by the system, if possible."""
        if self._threads is None:
            self._threads = self._prepare()
        return self._threads

    @property
    def counted(self) -> bool:
        """Return whether the system counted its threads."""
        return self._counted

    @property
    def provider(self) -> str:
        """The code that computes: the delegate, the builtin kernels, or both for one part each.

        XNNPACK is the only delegate that an interpreter uses by default on a CPU.
        """
        operations = self._interpreter._get_ops_details()
        parts = [each for each in operations if each["op_name"] == _DELEGATE]
        if not parts:
            return "builtin"
        made = {int(at) for each in operations for at in each["outputs"]}
        whole = len(parts) == 1 and self._output in parts[0]["outputs"]
        fed = made.intersection(map(int, parts[0]["inputs"]))
        return "XNNPACK" if whole and not fed else "XNNPACK+builtin"

    @property
    def precision(self) -> Precision:
        """The precision from the types of the operands, weights and activations."""
        graph = self._interpreter
        dtypes = {each["index"]: each["dtype"] for each in graph.get_tensor_details()}
        operations = [each for each in graph._get_ops_details() if each["op_name"] != _DELEGATE]
        computed = {int(at) for each in operations for at in each["outputs"]} | {self._input}
        found: set[Precision] = set()
        for each in operations:
            inputs = [int(at) for at in each["inputs"] if at in dtypes]
            weights = {dtypes[at] for at in inputs if at not in computed}
            activations = {dtypes[at] for at in inputs if at in computed}
            if np.float16 in weights:
                found.add("fp16")
            elif np.int8 in weights and each["op_name"] in _CONVERSIONS:
                found.add("int8-weights")
            elif np.int8 in weights:
                found.add("int8" if np.int8 in activations else "int8-dynamic")
        order: tuple[Precision, ...] = ("int8", "int8-dynamic", "int8-weights", "fp16")
        found |= {"fp16"} if self._may_halve else set()
        return next((each for each in order if each in found), "fp32")

    @property
    def arithmetic(self) -> str:
        """The arithmetic of the kernels: XNNPACK and the builtin kernels use the types in the
        graph. They have no Winograd convolutions."""
        return UNKNOWN if self._may_halve else _ARITHMETIC[self.precision]


class LitertSession:
    """Splits a batch into the largest sizes that the files take."""

    def __init__(self, files: list[BatchFile]) -> None:
        self._files = sorted(files, key=lambda file: -file.size)
        self._last = self._files[-1]
        self._used: set[str] | None = None  # set by the first call, which uses noise

    @property
    def attestation(self) -> Attestation:
        """Attestation of the file that ran last: types and delegate as reported by its interpreter.
        `files` are those that computed something after the first call, which a worker makes with
        noise."""
        threads = self._last.threads
        return Attestation(
            runtime="litert",
            version=installed_version("ai-edge-litert") or "unknown",
            provider=self._last.provider,
            device="cpu",
            precision=self._last.precision,
            threads=threads,
            arithmetic=self._last.arithmetic,
            evidence={
                "provider": "read back",
                "precision": "read back",
                "threads": "read back" if self._last.counted else "as asked",
                "arithmetic": "from the file",
            },
            files=tuple(sorted(self._used or ())),
        )

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`."""
        parts, at, used = [], 0, set()
        while at < len(inputs):
            left = len(inputs) - at
            self._last = next(file for file in self._files if file.size <= left)
            parts.append(self._last.run(inputs[at : at + self._last.size]))
            used.add(self._last.name)
            at += self._last.size
        self._used = set() if self._used is None else self._used | used
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
