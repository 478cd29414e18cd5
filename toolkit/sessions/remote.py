"""The driver's end of a worker: start, requests, failures.

In: a candidate. Out: a `RemoteSession`. Each of its failures is a `FailedRun` with a row's status:
died, hung, out of memory, not installed, unsupported. Child processes are always reaped.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import execnet
import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.errors import (
    Crashed,
    FailedRun,
    OutOfMemory,
    TimedOut,
    Unsupported,
    headline,
)
from toolkit.files import read_tail
from toolkit.files.scratch import ScratchFolder
from toolkit.interruption import uninterrupted
from toolkit.machine.environment import oom_kills
from toolkit.processes.confinement import Confinement
from toolkit.processes.endings import FAILURES, exit_text, joined, kill_tree, tail_of
from toolkit.processes.numerics import REMOVED_FROM_ENVIRONMENT
from toolkit.schema import Attestation, Round, ScenarioSettings, from_json, to_json
from toolkit.sessions import bootstrap
from toolkit.sessions.candidates import Candidate
from toolkit.sessions.loadgen_log import LoadResult
from toolkit.sessions.messages import (
    Loaded,
    outcome_of,
    pack,
    pack_images,
    round_of,
    unpack,
)
from toolkit.sessions.surroundings import environment_of, needs_of, path_without_text

_PIPELINED_CHUNKS = 2
_EXIT_GRACE_S = 2.0

Decoded = TypeVar("Decoded")


class RemoteSession:
    """A session in a worker on this host. After the first failure, every later call raises it
    again. `shares` says that the worker shares the machine with another one: do not time it."""

    def __init__(
        self, candidate: Candidate, *, batch_size: int, timeout_s: float, shares: bool = False
    ) -> None:
        self.candidate = candidate
        self.loaded: Loaded | None = None
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._failure: FailedRun | None = None
        self._killed_by_watchdog = False
        self._closed = False
        self._oom_kills = oom_kills()
        self._scratch = ScratchFolder("worker")
        self._environment = environment_of(candidate, self._scratch.path, shares=shares)
        self._log = self._scratch.path / "stderr.log"
        self._log.touch()
        self._confined: Confinement | None = None
        self._confinement: str | None = None
        self._group = execnet.Group()
        self._channel: Any = None
        self._process: psutil.Process | None = None

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def load(self) -> Loaded:
        """Start the worker and load the session, once.

        Raises:
            FailedRun: With the row's status and the end of the worker's stderr.
        """
        if self._failure is not None:
            raise self._failure
        if self.loaded is None:
            source, row = self.candidate.source, self.candidate.runtime
            try:
                artifact = source.artifact
                uint8 = artifact.embeds_preprocessing
                row.refuse(self.candidate.settings, artifact.format, uint8=uint8)
            except Unsupported as unsupported:
                raise self._fail(unsupported) from None
            self._start()
            reply = self._ask(
                "load",
                module=row.module,
                package=row.package,
                install=row.install,
                path=str(source.path),
                artifact=to_json(source.artifact),
                settings=to_json(self.candidate.settings),
                model=source.model,
                input=to_json(self.candidate.input),
                batch_size=self._batch_size,
                variant=source.variant,
            )
            loaded = self._decoded(partial(from_json, Loaded), reply)
            self.loaded = replace(loaded, attestation=self._with_confinement(loaded.attestation))
            self._check_attestation(self.loaded.attestation)
        return self.loaded

    def predict(
        self, chunks: Iterable[NDArray[np.uint8]], *, batch_size: int
    ) -> Iterator[NDArray[np.floating]]:
        """Return logits `[N,K]` of each chunk of raw images `[N,C,H,W]`, in order.

        The next chunk is sent while one is computed; at most two are in transit.
        """
        self.load()
        waiting = 0
        for chunk in chunks:
            self._send("predict", **pack_images(chunk), batch_size=batch_size)
            waiting += 1
            if waiting == _PIPELINED_CHUNKS:
                waiting -= 1
                yield self._decoded(unpack, self._receive())
        for _ in range(waiting):
            yield self._decoded(unpack, self._receive())

    def prepare(
        self,
        images: NDArray[np.uint8],
        *,
        batch_size: int,
        expected: NDArray[np.floating] | None = None,
    ) -> NDArray[np.floating]:
        """Give the worker the raw images that its timed calls rotate through; it repeats them if
        there are fewer than five batches. Return their logits `[N,K]`, repeated in the same way.

        Raises:
            FailedRun: `WrongOutput` if they differ from the `expected` logits of the same images.
        """
        self.load()
        packed = None if expected is None else pack(expected)
        reply = self._ask("prepare", **pack_images(images), batch_size=batch_size, expected=packed)
        return self._decoded(unpack, reply)

    def measure(self, *, calls: int, repeat: bool = False) -> Round:
        """Return the wall times of `calls` calls in each stream, timed inside the worker; with
        `repeat`, all calls use the same input batch."""
        self.load()
        return self._decoded(round_of, self._ask("measure", calls=calls, repeat=repeat))

    def loadgen(
        self, images: NDArray[np.uint8], *, batch_size: int, wanted: ScenarioSettings
    ) -> LoadResult:
        """Let MLPerf LoadGen query the session for these raw images `[N,C,H,W]`.

        The worker may be silent for twice the requested time in addition to the usual timeout:
        LoadGen continues until its last query is answered.

        Raises:
            FailedRun: `WrongOutput` if timed answers differ from untimed ones.
        """
        self.load()
        with tempfile.TemporaryDirectory(prefix="loadgen-", dir=self._scratch.path) as folder:
            self._send(
                "loadgen",
                **pack_images(images),
                batch_size=batch_size,
                wanted=to_json(wanted),
                out=folder,
            )
            reply = self._receive(extra_s=2 * wanted.min_duration_s)
            return self._decoded(partial(from_json, LoadResult), reply)

    def attest(self) -> Attestation:
        """Ask the worker again what really runs, after all calls so far.

        Raises:
            FailedRun: `Unsupported` if it differs from the request.
        """
        self.load()
        reply = self._decoded(partial(from_json, Attestation), self._ask("attest"))
        attested = self._with_confinement(reply)
        self._check_attestation(attested)
        return attested

    def peak_memory_bytes(self) -> int:
        """Return the worker's peak resident memory so far."""
        return self._decoded(int, self._ask("peak_memory"))

    @property
    def pid(self) -> int | None:
        """The worker's process id, once it runs."""
        return self._process.pid if self._process else None

    def stderr_tail(self) -> str:
        """The last lines that the worker wrote to stderr."""
        with contextlib.suppress(OSError):
            return tail_of(read_tail(self._log, within=self._scratch.path))
        return ""

    def close(self) -> None:
        """End the worker, by force if necessary, and reap it. If another thread is starting it, it
        ends as soon as it has started."""
        self._closed = True
        with uninterrupted():
            self._group.terminate(timeout=_EXIT_GRACE_S)
            if self._process is not None:
                kill_tree(self._process)
            if self._confined is not None:
                self._confined.close()
            self._scratch.remove()

    def _start(self) -> None:
        if self._closed:
            raise self._fail(Crashed("closed before it had started"))
        unsendable = path_without_text(self.candidate, self._scratch.path)
        if unsendable is not None:
            text = f"the path {unsendable!a} is not valid UTF-8; rename its folders"
            raise self._fail(Unsupported(text))
        try:
            self._confined = Confinement(self._scratch.path, needs_of(self.candidate))
            spec = f"popen//execmodel=main_thread_only//python={shlex.join(self._confined.command)}"
            gateway = self._group.makegateway(spec)
            if self._closed:
                self.close()
                raise self._fail(Crashed("closed before it had started"))
            self._channel = gateway.remote_exec(bootstrap)
            self._channel.send(
                {
                    "removed": list(REMOVED_FROM_ENVIRONMENT),
                    "environment": self._environment,
                    "path": sys.path,
                    "stderr": str(self._log),
                }
            )
            pid, self._confinement = self._channel.receive(self._timeout_s)
            self._process = psutil.Process(pid)
        except (OSError, EOFError, execnet.TimeoutError, psutil.NoSuchProcess) as error:
            raise self._fail(Crashed(f"the worker did not start: {error}")) from error

    def _with_confinement(self, attested: Attestation) -> Attestation:
        return replace(attested, confinement=self._confinement)

    def _ask(self, command: str, /, **arguments: object) -> Any:
        self._send(command, **arguments)
        return self._receive()

    def _send(self, command: str, /, **arguments: object) -> None:
        if self._failure is not None:
            raise self._failure
        # A worker that no longer reads would block the pipe, and this process with it, forever.
        watchdog = threading.Timer(self._timeout_s, self._kill_worker)
        watchdog.daemon = True
        try:
            watchdog.start()
            self._channel.send((command, arguments))
        except OSError as error:
            if self._killed_by_watchdog:
                raise self._fail(TimedOut(f"after {self._timeout_s:g} s")) from error
            raise self._fail(self._post_mortem()) from error
        finally:
            watchdog.cancel()

    def _kill_worker(self) -> None:
        self._killed_by_watchdog = True
        if self._process is not None:
            kill_tree(self._process)

    def _receive(self, *, extra_s: float = 0.0) -> Any:
        timeout_s = self._timeout_s + extra_s
        try:
            reply = self._channel.receive(timeout_s)
        except EOFError as error:
            raise self._fail(self._post_mortem()) from error
        except execnet.TimeoutError as error:
            raise self._fail(TimedOut(f"after {timeout_s:g} s")) from error
        except execnet.RemoteError as error:  # the worker's own code failed, not its session
            raise self._fail(Crashed("the worker failed", stderr_tail=str(error))) from error
        failed, content = self._decoded(outcome_of, reply)
        if not failed:
            return content
        status, reason, traceback = content
        tail = joined(self.stderr_tail(), traceback)
        raise self._fail(FAILURES[status](reason, stderr_tail=tail))

    def _decoded(self, decode: Callable[[Any], Decoded], reply: Any) -> Decoded:
        """Decode what the worker sent; nonsense is a failure of the worker, which may run code that
        lies."""
        try:
            return decode(reply)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise self._fail(
                Crashed(f"the worker's answer cannot be understood: {headline(error)}")
            ) from error

    def _fail(self, failure: FailedRun) -> FailedRun:
        """Remember the failure and end the worker; its later answers are meaningless."""
        failure.stderr_tail = failure.stderr_tail or self.stderr_tail()
        self._failure = failure
        if self._process is not None:
            kill_tree(self._process)
        return failure

    def _post_mortem(self) -> FailedRun:
        """Return how the worker died. A signal counts as out of memory if the kernel says so."""
        if self._process is None:
            return Crashed("the worker did not start")
        try:
            code = self._process.wait(timeout=_EXIT_GRACE_S)
        except psutil.TimeoutExpired:
            return Crashed("the worker closed its channel")
        if code is None:
            return Crashed("the worker ended with an unknown exit code")
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return OutOfMemory("killed by the kernel (SIGKILL)")
        return Crashed(exit_text(code))

    def _check_attestation(self, found: Attestation) -> None:
        difference = self.candidate.difference(found)
        if difference is not None:
            raise self._fail(Unsupported(difference))


@contextlib.contextmanager
def open_sessions(
    candidates: Sequence[Candidate], *, batch_size: int, timeout_s: float, shares: bool = False
) -> Iterator[list[RemoteSession]]:
    """Yield one session per candidate, not yet started; all workers are gone at the end. `shares`
    says that several of them may work at the same time."""
    new = partial(RemoteSession, batch_size=batch_size, timeout_s=timeout_s, shares=shares)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(new(each)) for each in candidates]
