"""A reader in a separate process: it may crash, hang or fill the memory without ending the rest.

In: a target, and damaged content. Out: what became of it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from toolkit.errors import ToolkitError, printable

from .counts import Fate
from .targets import Target

_MOST_MEMORY_BYTES = 8 << 30  # address space: a bomb ends in MemoryError, not in the kernel's hands


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one content; `text` is the error."""

    fate: Fate
    text: str = ""


class Apart:
    """The process of one target, started again when it has died."""

    def __init__(self, target: type[Target], *, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._start()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def read(self, content: bytes) -> Answer:
        """Let the process read the content."""
        try:
            self._connection.send_bytes(content)
            if not self._connection.poll(self._timeout_s):
                self._again()
                return Answer(fate="hang", text=f"no answer after {self._timeout_s:g} s")
            answer: Answer = self._connection.recv()
            return answer
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._again()
            return Answer(fate="driver crash", text=f"the process ended with exit code {code}")

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="toolkit-fuzz-", ignore_cleanup_errors=True
        )
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (self._target, self._folder.name, theirs)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.healthy: bytes = self._connection.recv_bytes()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._folder.cleanup()

    def _again(self) -> None:
        self._stop()
        self._start()


def _serve(kind: type[Target], folder: str, connection: Connection) -> None:
    """Run in the child: send the healthy content, then read what comes."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    warnings.simplefilter("ignore")
    os.chdir(folder)
    target = kind(Path(folder))
    connection.send_bytes(target.healthy)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_answer(target, connection.recv_bytes()))


def _answer(target: Target, content: bytes) -> Answer:
    try:
        try:
            target.read(content)
        except ToolkitError as error:
            printable(str(error)).encode()  # as it is printed
            return Answer(fate="refused", text=str(error))
    except Exception:  # noqa: BLE001 - this is what the fuzzer looks for
        return Answer(fate="driver crash", text=traceback.format_exc())
    return Answer(fate="accepted")
