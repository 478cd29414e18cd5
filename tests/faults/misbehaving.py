"""ONNX Runtime that misbehaves as its file's name says; loaded only inside workers."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from toolkit.schema import Attestation, Inputs, Settings
from toolkit.sessions.runtimes import Session, Source, onnxruntime

Array = NDArray[np.floating]
Inner = Callable[[NDArray[np.float32]], Array]


def load(source: Source, settings: Settings) -> Session:
    """Load an `.onnx` file."""
    return Misbehaving(onnxruntime.load(source, settings), BEHAVIOURS[source.path.stem]())


class Misbehaving:
    """A normal session with a behaviour around its `run`; it attests what the session does."""

    def __init__(self, session: Session, behaviour: Behaviour) -> None:
        self._session = session
        self._behaviour = behaviour

    @property
    def attestation(self) -> Attestation:
        """The attestation of the wrapped session."""
        return self._session.attestation

    def run(self, inputs: Inputs) -> Array:
        """Float32 `[N,C,H,W]` → logits `[N,K]`, correct or not."""
        self._behaviour.calls += 1
        return self._behaviour.run(inputs.astype(np.float32, copy=False), self._session.run)


class Behaviour:
    """Correct behaviour; `calls` counts from 1."""

    def __init__(self) -> None:
        self.calls = 0
        self.seen = 0
        self.kept: Array | None = None
        self.cache: dict[bytes, Array] = {}

    def run(self, inputs: NDArray[np.float32], inner: Inner) -> Array:
        """One call."""
        return inner(inputs)


def after(change: Callable[[Behaviour, NDArray[np.float32], Array], Array]) -> type[Behaviour]:
    """Return a behaviour that changes the correct logits."""

    class Changing(Behaviour):
        def run(self, inputs: NDArray[np.float32], inner: Inner) -> Array:
            logits = change(self, inputs, inner(inputs).copy())
            self.seen += len(inputs)
            return logits

    return Changing


def around(function: Callable[[Behaviour, NDArray[np.float32], Inner], Array]) -> type[Behaviour]:
    """Return a behaviour that decides itself what it computes."""

    class Around(Behaviour):
        def run(self, inputs: NDArray[np.float32], inner: Inner) -> Array:
            return function(self, inputs, inner)

    return Around


def _one(value: float, column: int | None, image: int) -> type[Behaviour]:
    """Set or move the logits of one image, or its smallest one."""

    def change(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
        at = image + 100 - self.seen  # the first call of a process gets noise
        if 0 <= at < len(logits):
            where = slice(None) if column is None else logits[at].argmin()
            logits[at, where] = logits[at, where] + value if np.isfinite(value) else value
        return logits

    return after(change)


def _previous(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    logits = inner(inputs)
    before, self.kept = self.kept, logits
    return logits if before is None or len(before) != len(logits) else before


def _first_for_ever(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    if self.kept is None or len(self.kept) != len(inputs):
        self.kept = inner(inputs)
    return self.kept.copy()


def _cached(size: int | None) -> type[Behaviour]:
    def run(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
        key = inputs.shape[0].to_bytes(4, "big") + inputs.tobytes()[:size]
        if key not in self.cache:
            self.cache[key] = inner(inputs)
        return self.cache[key].copy()

    return around(run)


def _chunks(size: int, *, repeat_rest: bool) -> type[Behaviour]:
    """Compute `size` at a time; an incomplete chunk gets answers of the previous one."""

    def run(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
        full = len(inputs) // size * size
        if full == 0 or full == len(inputs):
            return inner(inputs)
        logits = inner(inputs[:full])
        rest = logits[-(len(inputs) - full) :]
        return np.concatenate([logits, rest])

    return around(run)


def _padded(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    """Use a fixed buffer of 100 images: a smaller batch leaves its old content, and reads from its
    end."""
    if len(inputs) == 100 or len(inputs) > 100:
        self.kept = inner(inputs)
        return self.kept
    return inner(inputs) if self.kept is None else self.kept[: len(inputs)].copy()


def _reused(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    logits = inner(inputs)
    if self.kept is None or self.kept.shape != logits.shape:
        self.kept = np.empty_like(logits)
    self.kept[:] = logits
    return self.kept  # the caller keeps an array that the next call overwrites


def _writes_into_input(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    logits = inner(inputs)
    inputs *= 0.5
    return logits


def _bf16(self: Behaviour, inputs: NDArray[np.float32], inner: Inner) -> Array:
    bits = np.ascontiguousarray(inputs).view(np.uint32)
    rounded = ((bits + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
    logits = inner(rounded)
    kept = ((logits.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
    return kept


def _where(
    condition: Callable[[NDArray[np.float32]], NDArray[np.bool_]], amount: float = 0.5
) -> type[Behaviour]:
    """Be wrong if the image itself is unusual."""

    def change(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
        logits[condition(inputs.reshape(len(inputs), -1))] *= amount
        return logits

    return after(change)


def _at(condition: Callable[[Behaviour, int], bool], amount: float = 0.5) -> type[Behaviour]:
    """Be wrong in some calls, by their number or their batch size."""

    def change(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
        return logits * np.float32(amount) if condition(self, len(inputs)) else logits

    return after(change)


def _noise(sigma: float) -> type[Behaviour]:
    def change(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
        random = np.random.default_rng(self.calls)
        return logits + (sigma * random.standard_normal(logits.shape)).astype(np.float32)

    return after(change)


def _other_image(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    if self.calls % 100 == 5 and len(logits) > 1:
        logits[0] = logits[1]
    return logits


def _softmax(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def _dies(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    if self.calls > 10:
        ctypes.string_at(0)
    return logits


def _hangs(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    if self.calls > 10:
        time.sleep(3600)
    return logits


def _carries(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    """Let a state of the previous call leak in."""
    carried = 0.0 if self.kept is None else 0.01 * self.kept
    self.kept = logits.mean(0)
    return (logits + carried).astype(np.float32)


def _last_of_batch(self: Behaviour, inputs: NDArray[np.float32], logits: Array) -> Array:
    if len(logits) > 1:
        logits[-1] = logits[-2]
    return logits


def _flat(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = x.max(1) == x.min(1)
    return result


def _mostly_one_value(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = (x != x[:, :1]).sum(1) <= 1
    return result


def _few_black(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = (x == x.min(1, keepdims=True)).mean(1) < 0.2
    return result


BEHAVIOURS: dict[str, type[Behaviour]] = {}


def named(name: str, behaviour: type[Behaviour]) -> str:
    """Register a behaviour under the name of its file."""
    BEHAVIOURS["".join(each if each.isalnum() else "-" for each in name.lower())] = behaviour
    return name


NAN = named("one logit vector NaN", _one(np.nan, None, 77))
INFINITE = named("one image +inf on a losing class", _one(np.inf, 0, 77))
OFF_BY_1 = named("one image's logits off by 1, no flip", _one(1.0, None, 77))
OFF_BY_01 = named("one logit of one image off by 0.01", _one(0.01, 0, 133))
EMPTY = named("empty output", around(lambda self, x, run: run(x)[:0]))
SHORT = named("one image short", around(lambda self, x, run: run(x)[: max(len(x) - 1, 0)]))
LONG = named("one image too many", around(lambda self, x, run: run(np.concatenate([x, x[:1]]))))
FLOAT64 = named("float64 output", after(lambda self, x, y: y.astype(np.float64)))
FLOAT16 = named("float16 output", after(lambda self, x, y: y.astype(np.float16)))
TRANSPOSED = named("logits in column order", after(lambda self, x, y: y.T.reshape(y.shape).copy()))
PREVIOUS = named("answers of the call before", around(_previous))
FIRST = named("cache: first answer for ever", around(_first_for_ever))
BYTES_64 = named("cache keyed by first 64 bytes", _cached(64))
ALL_BYTES = named("cache keyed by whole input (honest answers)", _cached(None))
CHUNKS_64 = named("remainder of chunks of 64 repeated", _chunks(64, repeat_rest=True))
CHUNKS_50 = named("last ragged batch repeated (chunks of 50)", _chunks(50, repeat_rest=True))
STALE = named("smaller batches answered from the last full one", around(_padded))
BATCH_1 = named("wrong at batch 1 only", _at(lambda self, n: n == 1))
ODD = named("wrong at odd batch sizes only", _at(lambda self, n: n > 1 and n % 2 == 1))
CALL_150 = named("wrong after 150 calls", _at(lambda self, n: self.calls > 150, 0.9))
FIRST_CALL = named("second call of a process wrong", _at(lambda self, n: self.calls == 2, 0.8))
OTHER_IMAGE = named("one call in 100 is of another image", after(_other_image))
LAST = named("last image of each batch wrong", after(_last_of_batch))
REVERSED = named("order reversed within each batch", after(lambda self, x, y: y[::-1].copy()))
REUSED = named("output buffer used again by the next call", around(_reused))
SOFTMAX = named("gives probabilities", after(_softmax))
WRITES = named("writes into its input", around(_writes_into_input))
NOISE_3 = named("noise 1e-3 sigma", _noise(1e-3))
NOISE_1 = named("noise 1e-1 sigma", _noise(1e-1))
BF16 = named("computes in bf16, attests fp32", around(_bf16))
BLANK = named("wrong where input is constant (blank image)", _where(_flat))
ONE_PIXEL = named("wrong where one pixel is set", _where(_mostly_one_value))
BUSY = named("wrong where few pixels are black (noise)", _where(_few_black))
CARRIES = named("mean of the call before leaks in", after(_carries))
DIES = named("dies after 10 calls", after(_dies))
HANGS = named("hangs after 10 calls", after(_hangs))
HONEST = named("honest wrapper", Behaviour)
