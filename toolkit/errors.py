"""Exception tree; the command line turns each error into one line and an exit code.

    ToolkitError                 exit code 2: wrong usage or bad input
    ├── UnsupportedSystemError   the toolkit does not run on this operating system
    ├── SettingError             a setting is out of range (`threads=0`)
    ├── UnknownNameError         unknown format, runtime, device ...; lists the known names
    ├── DatasetError             IDX files are missing, damaged or do not fit the model
    ├── CheckpointError          weights or checkpoint.json are missing, damaged or refused
    ├── ArtifactError            artifact or manifest.json is missing, damaged or does not match
    ├── InputError               an array does not fit the session: shape, dtype, batch, NaN
    ├── OutputError              a file or folder cannot be written
    └── FailedRun                exit code 3: could not be run; carries the status of a row
        ├── Crashed              the worker died or the runtime raised an exception
        ├── TimedOut             no answer in time
        ├── OutOfMemory          the worker ran out of memory
        ├── WrongOutput          timed calls gave other logits than untimed calls (exit code 1)
        ├── NotInstalled         a package is missing; the message has the install command
        └── Unsupported          the runtime cannot do what was requested (device, precision)

Every message says what failed, the value received, what was expected, and what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.places import without_places

_FILE = r"[^\s:'\"]*\.(?:cpp|cc|cxx|hpp|h|cu)"
_MOST_LINES = 4
_SOURCES = [
    re.compile(each, re.MULTILINE)
    for each in (
        rf"^Exception from {_FILE}:\d+:[ \t]*",  # OpenVINO
        rf"Check '.*' failed at {_FILE}:\d+:?[ \t]*",
        r"^While validating node '.*' with friendly_name '.*':[ \t]*$",
        r"^FrontEnd API failed with \w+:[ \t]*$",
        r"^Model wasn't fully converted\.( Failed operations detailed log:)?[ \t]*$",
        r"^Summary:[ \t]*$",
        r"^-- ",
        rf"\[enforce fail at {_FILE}:\d+\]\s*\.?\s*",  # PyTorch
        rf"{_FILE}:\d+ [^\n]*?\)(?: const)? (?=[A-Z\[])",  # ONNX Runtime: file, line, function
        rf"^\[?{_FILE}:\d+\]?:?[ \t]*",  # ExecuTorch, MNN
        # TorchScript: the Python code that was traced, on whatever machine that was
        r"\AThe following operation failed in the TorchScript interpreter\.[\s\S]*\n\w*Error: ",
    )
]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.schema import Status


def headline(error: BaseException) -> str:
    """Summarise an exception of third-party code in one line: its type and the first line of its
    message that says more than a place in the source code of a C++ library."""
    lines = [each.strip() for each in without_sources(str(error)).splitlines()]
    told = [each for each in lines if each] or ["no message"]
    last = 0
    while told[last].endswith(":") and last < min(len(told), _MOST_LINES) - 1:
        last += 1  # the reason is in the next line
    return f"{type(error).__name__}: {' '.join(told[: last + 1])[:500]}"


def without_sources(text: str) -> str:
    """Remove the places in C++ sources that libraries write before their reasons."""
    for place in _SOURCES:
        text = place.sub("", text)
    return text.strip()


def printable(text: str) -> str:
    """Return text whose control characters and lone surrogates are escaped: a name in somebody's
    file must not steer the terminal, nor fail to be printed."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after a part of the work was finished.

    `results` is that part, marked `interrupted`: the `Results` of verify, bench, loadgen and run,
    the `Tuning` of tune, or the `Export` of export. `advice` says where it is kept, and what the
    same command would go on with.
    """

    def __init__(self, results: Any, advice: str) -> None:
        super().__init__(f"interrupted: {advice}")
        self.results = results
        self.advice = advice


class ToolkitWarning(UserWarning):
    """A problem that does not stop the work; the command line prints it."""


class ToolkitError(Exception):
    """Base class of every error that the toolkit raises on purpose."""

    exit_code: ClassVar[int] = 2


class UnsupportedSystemError(ToolkitError):
    """The toolkit does not run on this operating system."""


class SettingError(ToolkitError):
    """A setting is out of range."""


class UnknownNameError(ToolkitError):
    """A name is unknown; the message lists the known names, and the one that may be meant.

    `near` are names that are meant although they are written differently.
    """

    def __init__(self, kind: str, name: str, known: list[str], *, near: Sequence[str] = ()) -> None:
        from difflib import get_close_matches

        meant = near or get_close_matches(name.lower(), known, n=2)
        question = f": did you mean {' or '.join(meant)}? Known" if meant else "; known"
        super().__init__(f"unknown {kind} {name!r}{question}: {', '.join(known)}")


class DatasetError(ToolkitError):
    """IDX files are missing, damaged, or do not fit the model."""


class CheckpointError(ToolkitError):
    """A checkpoint is missing, damaged, or would run code."""


class ArtifactError(ToolkitError):
    """An artifact is missing, damaged, or belongs to another checkpoint."""


class InputError(ToolkitError):
    """An array does not fit the session: shape, dtype, batch or NaN. The runtime has not seen
    it."""


class NotTrustedError(ToolkitError):
    """Something would run code that the user has not trusted."""


class OutputError(ToolkitError):
    """Something cannot be written; existing files are unchanged."""


class FailedRun(ToolkitError):  # noqa: N818 - it is the outcome of a row, not only an error
    """Something could not be run. `reason` follows the status in a row.

    `stderr_tail` holds the last lines that the worker wrote to stderr, for the row and the report.
    Both are recorded and shown to others, so they name no folder of this machine.
    """

    exit_code: ClassVar[int] = 3
    status: ClassVar[Status] = "crashed"

    def __init__(self, reason: str, *, stderr_tail: str = "") -> None:
        self.reason = without_places(reason)
        super().__init__(f"{self.status.replace('_', ' ')}: {self.reason}")
        self.stderr_tail = stderr_tail

    @property
    def stderr_tail(self) -> str:
        """The last lines that the worker wrote to stderr, without places of this machine."""
        return self._stderr_tail

    @stderr_tail.setter
    def stderr_tail(self, text: str) -> None:
        self._stderr_tail = without_places(text)


class Crashed(FailedRun):
    """The worker died, or the runtime raised an exception."""


class TimedOut(FailedRun):
    """No answer in time; the worker was killed."""

    status = "timed_out"


class OutOfMemory(FailedRun):
    """The worker ran out of memory."""

    status = "out_of_memory"


class WrongOutput(FailedRun):
    """Timed calls gave other logits than the verified ones. This is a verdict, not an accident."""

    exit_code = 1
    status = "failed"


class NotInstalled(FailedRun):
    """A package is missing."""

    status = "not_installed"


class Unsupported(FailedRun):
    """The runtime cannot do what was requested."""

    status = "unsupported"
