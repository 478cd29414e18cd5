"""The worker: one session in its own process, at the far end of a channel.

In: requests `(command, arguments)`. Out: replies `("ok", value)` or `("error", status, reason,
traceback)`. Both consist of plain values, so the far end may be another interpreter or another
machine. The driver's end is `toolkit.sessions.remote`.

The worker checks the artifact's bytes and each input before the runtime sees them.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.inputs import inputs_of
from toolkit.artifacts.manifest import check_artifact
from toolkit.errors import (
    FailedRun,
    InputError,
    Unsupported,
    headline,
)
from toolkit.files import copy_files, others_can_change
from toolkit.machine.allocator import keep_memory
from toolkit.machine.environment import page_faults, peak_memory_bytes
from toolkit.schema import (
    TRAITS,
    Artifact,
    Attestation,
    Inputs,
    InputSpec,
    ScenarioSettings,
    Settings,
    from_json,
    to_json,
)
from toolkit.sessions.checked import CheckedSession, check_same
from toolkit.sessions.loadgen import run_scenario
from toolkit.sessions.messages import pack, samples_of, unpack
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, Session, Source, import_loader
from toolkit.timing import DISTINCT_BATCHES, Stopwatch, time_calls, time_streams

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
)

Run = Callable[[Inputs], NDArray[np.floating]]


class Channel(Protocol):
    """The part of execnet's channel that a worker uses."""

    def send(self, item: object) -> None: ...

    def receive(self) -> Any: ...


def serve(channel: Channel) -> None:
    """Answer requests until the driver closes the channel. Then end immediately: there is nothing
    to save, and torch alone takes half a second to shut down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    faulthandler.enable(all_threads=False)
    worker = Worker()
    while True:
        try:
            command, arguments = channel.receive()
        except EOFError:
            os._exit(0)
        try:
            reply: tuple[object, ...] = ("ok", worker.commands[command](**arguments))
        except Exception as error:  # noqa: BLE001 - the boundary of the worker: every exception becomes a row
            reply = _failure(error)
        channel.send(reply)


def _failure(error: Exception) -> tuple[str, str, str, str]:
    text = str(error).lower()
    if isinstance(error, FailedRun):
        status, reason = error.status, error.reason
    elif isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        status, reason = "out_of_memory", headline(error)
    else:
        status, reason = "crashed", headline(error)
    return "error", status, reason, traceback.format_exc()


class Worker:
    """Holds the session, one copy per stream, and the prepared inputs for timing."""

    def __init__(self) -> None:
        self._sessions: list[CheckedSession] = []
        self._input: InputSpec | None = None
        self._batches: list[Inputs] = []
        self._expected: list[NDArray[np.floating]] = []
        self._timed_calls = 0
        self._random = random.Random(0)
        self._pool: ThreadPoolExecutor | None = None
        self._keeps_memory = False
        self.commands: dict[str, Callable[..., object]] = {
            "load": self.load,
            "predict": self.predict,
            "prepare": self.prepare,
            "measure": self.measure,
            "loadgen": self.loadgen,
            "attest": self.attest,
            "peak_memory": peak_memory_bytes,
        }

    def load(
        self,
        *,
        module: str,
        package: str,
        install: str,
        path: str,
        artifact: dict[str, Any],
        settings: dict[str, Any],
        model: str | None,
        input: dict[str, Any],
        batch_size: int,
        variant: str | None = None,
    ) -> dict[str, Any]:
        """Load the artifact once per stream; time the import, the first load and the first
        inference separately."""
        record = from_json(Artifact, artifact)
        source = Source(path=Path(path), artifact=record, model=model, variant=variant)
        if record.format != CHECKPOINT_FORMAT:  # a checkpoint is checked when it is read
            source = replace(source, path=_own_copy(source.path))
            check_artifact(source.path, record)
        wanted = from_json(Settings, settings)
        self._keeps_memory = wanted.keep_memory
        if wanted.keep_memory and not keep_memory():
            raise Unsupported(
                "the C library of this system cannot keep memory; remove --keep-memory"
            )
        watch = Stopwatch()
        loader = import_loader(module, package, install)
        import_s = watch.elapsed_s()
        self._input = from_json(InputSpec, input)
        watch = Stopwatch()
        session = loader.load(source, wanted)
        load_s = watch.elapsed_s()
        self._sessions = [CheckedSession(session, source.artifact)]
        noise = _noise(source.artifact, batch_size)
        watch = Stopwatch()
        self._sessions[0].run(noise)
        first_inference_s = watch.elapsed_s()
        for _ in range(wanted.streams - 1):
            session = loader.load(source, wanted)
            self._sessions.append(CheckedSession(session, source.artifact))
            self._sessions[-1].run(noise)
        self._pool = ThreadPoolExecutor(wanted.streams) if wanted.streams > 1 else None
        return {
            "attestation": self.attest(),
            "import_s": import_s,
            "load_s": load_s,
            "first_inference_s": first_inference_s,
        }

    def attest(self) -> dict[str, Any]:
        """Return what really runs in all streams, after all calls so far.

        Raises:
            Unsupported: The streams differ.
        """
        self._ready()
        sessions = [each.unchecked for each in self._sessions]
        found: dict[str, Any] = to_json(_attestation(sessions, keep_memory=self._keeps_memory))
        return found

    def predict(self, *, images: bytes, shape: list[int], batch_size: int) -> dict[str, Any]:
        """Return logits of raw uint8 images `[N,C,H,W]`, `batch_size` at a time."""
        session, spec = self._ready()
        pixels = samples_of(images, shape, spec.dtype)
        parts = [
            session.run(_inputs(pixels[start : start + batch_size], session, spec))
            for start in range(0, len(pixels), batch_size)
        ]
        return pack(np.concatenate(parts))

    def prepare(
        self,
        *,
        images: bytes,
        shape: list[int],
        batch_size: int,
        expected: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Prepare the distinct input batches that the timed calls rotate through, and return the
        logits `[N,K]` of their images, computed without timing. A small number of images is
        repeated to fill them.

        Raises:
            WrongOutput: They differ from `expected`, the earlier logits of the same images.
        """
        session, spec = self._ready()
        pixels = samples_of(images, shape, spec.dtype)
        rows = np.arange(DISTINCT_BATCHES * batch_size) % len(pixels)
        batches = rows.reshape(-1, batch_size)
        self._batches = [_inputs(pixels[each], session, spec) for each in batches]
        self._expected = [session.run(batch) for batch in self._batches]
        logits = np.concatenate(self._expected)
        if expected is not None:
            check_same(logits, unpack(expected), "this worker gave")
        return pack(logits)

    def measure(self, *, calls: int, repeat: bool) -> dict[str, Any]:
        """Return the wall time in ns of each of `calls` calls, one list per stream, and how many
        pages of memory they were given; with `repeat`, all calls use the same input.

        One untimed call is made first, because other workers have used the caches since the last
        round. The output of one random call is compared, untimed, with the earlier output for the
        same batch.

        Raises:
            WrongOutput: It differs, or contains NaN.
        """
        self._ready()
        if not self._batches:
            raise InputError("measure was called before prepare: there are no input batches")
        batches = self._batches[:1] if repeat else self._batches
        offset, kept = self._timed_calls, self._random.randrange(calls)
        runs: list[Run] = [session.unchecked.run for session in self._sessions]
        timed, given = self._time(runs, batches, calls=calls, offset=offset, kept=kept)
        self._timed_calls += calls
        for number, (_, logits) in enumerate(timed):
            self._sessions[number].check_logits(logits, len(batches[0]))
            expected = self._expected[(offset + number + kept) % len(batches)]
            check_same(logits, expected, "timed calls gave")
        return {"samples_ns": [samples_ns for samples_ns, _ in timed], "page_faults": given}

    def loadgen(
        self, *, images: bytes, shape: list[int], batch_size: int, wanted: dict[str, Any], out: str
    ) -> dict[str, Any]:
        """Let LoadGen query the sessions for these raw images `[N,C,H,W]`; its files go to `out`.

        A random part of the answers is compared, untimed, with the earlier output of the first
        session for the same images.

        Raises:
            WrongOutput: They differ, or contain NaN.
        """
        session, spec = self._ready()
        library = _inputs(samples_of(images, shape, spec.dtype), session, spec)
        starts = range(0, len(library), batch_size)
        expected = np.concatenate([session.run(library[at : at + batch_size]) for at in starts])
        result, kept = run_scenario(
            [each.unchecked.run for each in self._sessions],
            library,
            from_json(ScenarioSettings, wanted),
            batch_size=batch_size,
            folder=Path(out),
        )
        for each in kept:
            session.check_logits(each.logits, len(each.indices))
        logits = np.concatenate([each.logits for each in kept])
        if TRAITS[session.artifact.precision].depends_on_the_batch:
            again = np.concatenate([session.run(library[each.indices]) for each in kept])
        else:
            again = expected[[at for each in kept for at in each.indices]]
        check_same(logits, again, "LoadGen got")
        return {**to_json(result), "checked": len(logits)}

    def _time(
        self,
        runs: Sequence[Run],
        batches: Sequence[Inputs],
        *,
        calls: int,
        offset: int,
        kept: int,
    ) -> tuple[list[tuple[list[int], NDArray[np.floating]]], int]:
        """Time one stream in this thread, as a caller would; several streams in their own threads.
        Also return how many pages of memory the timed calls were given."""
        if self._pool is not None:
            before = page_faults()
            timed = time_streams(runs, batches, self._pool, calls=calls, offset=offset, kept=kept)
            given = page_faults() - before
            return timed, given * calls // (calls + 1)  # each stream made one more untimed call
        runs[0](batches[(offset - 1) % len(batches)])  # not the batch that is timed next
        before = page_faults()
        only = time_calls(runs[0], batches, calls=calls, offset=offset, kept=kept)
        return [only], page_faults() - before

    def _ready(self) -> tuple[CheckedSession, InputSpec]:
        if not self._sessions or self._input is None:
            raise InputError("no session is loaded in this worker")
        return self._sessions[0], self._input


def _inputs(pixels: NDArray[np.uint8], session: CheckedSession, spec: InputSpec) -> Inputs:
    """Return the input of the session for raw images `[N,C,H,W]`."""
    return inputs_of(pixels, spec, embedded=session.artifact.embeds_preprocessing)


def _noise(artifact: Artifact, batch_size: int) -> Inputs:
    """Return an input for the first call."""
    random, shape = np.random.default_rng(0), (batch_size, *artifact.input_shape)
    if artifact.embeds_preprocessing:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape, np.float32)


def _own_copy(path: Path) -> Path:
    """Return the path, or that of a copy in the worker's own folder if another user could replace
    the artifact between its check and its use."""
    try:
        if not others_can_change(path):
            return path
        copy = Path(tempfile.mkdtemp()) / path.name
        copy_files(path, copy)
    except OSError:
        return path  # the check says what is wrong with it
    return copy


def _attestation(sessions: list[Session], *, keep_memory: bool) -> Attestation:
    """Return the attestation of all streams; streams that differ cannot belong to one candidate.

    Raises:
        Unsupported: The streams differ.
    """
    said = [session.attestation for session in sessions]
    files = tuple(sorted({name for each in said for name in each.files}))
    found = [replace(each, files=files) for each in said]  # files that any stream computed with
    if any(each != found[0] for each in found):
        raise Unsupported(f"its {len(found)} streams run differently: {found}; use --streams 1")
    return replace(found[0], streams=len(found), keep_memory=keep_memory)
